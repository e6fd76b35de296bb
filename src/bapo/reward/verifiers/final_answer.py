r"""Where the final answer stands in what a model wrote.

The first rule that finds something counts:

1. the last `\boxed{...}` (or `\fbox`), braces balanced; boxes joined by a comma, "and" or "or" are
   one answer of several values;
2. what follows the last `####` on its line, as in GSM8K;
3. what stands in the last `<answer>` tag;
4. the rest of the sentence after the last "answer is", "answer:" or "answer = ";
5. otherwise the end of the text, in which math-verify looks for the last formula or number.

A box that is not closed, because the text was cut off, is none.
"""

import re
from dataclasses import dataclass
from typing import Final

from bapo.reward.verifiers.answers import tagged_answer

LONGEST_ANSWER: Final = 500
"""Characters; a longer one is no answer, and parsing it could take minutes."""

_TAIL_CHARACTERS: Final = 1000
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")
_JOINT: Final = re.compile(
    r"[\s$]*(?:,|,?\s*(?:\\text\s*\{)?\s*(?:and|or)\s*\}?)[\s$]*(?:[A-Za-z]\s*=\s*)?"
)
_MARKED: Final = re.compile(r"####[ \t]*([^\n]*)")
_SAID: Final = re.compile(
    r"\banswers?\b[*_]*(?:\s+(?:(?!is\b|are\b)[A-Za-z]+\b)[^.:=\n]{0,30}?)??"
    r"\s*(?::|=|\bis\b|\bare\b)(?:\s*(?:therefore|thus|simply|just|equal\s+to))?[\s:*_]*([^\n]+)",
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"[.!?;](?:\s|$)")


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """An answer, or where one is to be looked for.

    Attributes:
        text: The answer itself, or the end of the text.
        marked: Whether it is the answer itself (rules 1 to 4).
    """

    text: str
    marked: bool


def final_answer(text: str) -> FinalAnswer:
    """The final answer of a completion; see the module docstring."""
    boxed = last_boxed(text)
    if boxed is not None:
        return FinalAnswer(boxed, marked=True)
    marked = _MARKED.findall(text)
    if marked:
        return FinalAnswer(marked[-1].strip(), marked=True)
    tagged = tagged_answer(text)
    if tagged is not None:
        return FinalAnswer(tagged.strip(), marked=True)
    said = [*_SAID.finditer(text)]
    if said:
        return FinalAnswer(_first_sentence(said[-1][1]), marked=True)
    return FinalAnswer(text[-_TAIL_CHARACTERS:].strip(), marked=False)


def last_boxed(text: str) -> str | None:
    r"""What stands in the last closed `\boxed{...}`, with those that are joined to it."""
    joined: list[str] = []
    following = len(text)
    for start in reversed([*_BOX.finditer(text)]):
        end = _closing(text, start.end())
        if end is None or end > following:  # not closed, or around the box that was taken
            continue
        if joined and not _JOINT.fullmatch(text, end + 1, following):
            break
        joined.append(text[start.end() : end])
        following = start.start()
    return ", ".join(reversed(joined)) if joined else None


def _closing(text: str, start: int) -> int | None:
    """The place of the brace that closes the one before `start`."""
    depth = 1
    for place in range(start, len(text)):
        if text[place] in "{}" and text[place - 1] != "\\":
            depth += 1 if text[place] == "{" else -1
            if not depth:
                return place
    return None


def _first_sentence(text: str) -> str:
    """A text up to where its first sentence ends; a full stop inside a number ends none."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" *_")
