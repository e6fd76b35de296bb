"""Geometry: is the number that was asked for the right one? Exact, in whole numbers.

Columns: `answer` (a whole number) and `answer_format`.

answer_format "steps": what stands behind the last `=`, or all of it where there is none, as in
`70+50=120,180-120=60`. Only the answer counts; the steps are the model's own business.

answer_format "tags": what stands in the last `<answer>...</answer>`, a whole number that may be
followed by a degree sign or the word degrees.

Any other text is wrong. Columns that make no sense are an error, never a wrong answer.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from bapo.reward.verifiers.answers import tagged_answer

_STEPS_ANSWER: Final = re.compile(r"[0-9]{1,9}")
_TAGGED_ANSWER: Final = re.compile(r"\s*([0-9]{1,9})(?:\.0*)?\s*(?:°|degrees?)?\s*", re.IGNORECASE)

_STEPS: Final = {"answer": 60, "answer_format": "steps"}
_TAGS: Final = {"answer": 60, "answer_format": "tags"}

GOLDEN: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("70+50=120,180-120=60", _STEPS, True),
    ("60", _STEPS, True),
    ("70+50=120,180-120=61", _STEPS, False),
    ("70+50=120,180-120=60,", _STEPS, False),
    ("180-120=60=", _STEPS, False),
    ("", _STEPS, False),
    ("60=12", _STEPS, False),
    ("The third angle: <answer>60</answer>", _TAGS, True),
    ("<answer> 60° </answer>", _TAGS, True),
    ("<answer>60 degrees</answer>", _TAGS, True),
    ("<answer>50</answer>, no: <answer>60</answer>", _TAGS, True),
    ("so <answer>60", _TAGS, True),
    ("<answer>60 or 50</answer>", _TAGS, False),
    ("<answer>160</answer>", _TAGS, False),
    ("60", _TAGS, False),
]


def verify(
    completions: Sequence[str], answer: Sequence[int], answer_format: Sequence[str]
) -> list[bool]:
    """Whether each completion gives its answer.

    Args:
        completions: Texts.
        answer: The right number of each.
        answer_format: `steps` or `tags`, of each.

    Returns:
        One bool for each completion.

    Raises:
        ValueError: A column has a value that makes no sense.
    """
    rows = zip(completions, answer, answer_format, strict=True)
    return [_is_right(*row) for row in rows]


def check_columns(answer: Any, answer_format: Any, **others: Any) -> str:
    """Why a row's columns make no sense; empty where they do."""
    if not isinstance(answer, int) or isinstance(answer, bool):
        return f"The column 'answer' must be a whole number, but is {answer!r}."
    if answer_format not in ("steps", "tags"):
        return f"The column 'answer_format' must be 'steps' or 'tags', but is {answer_format!r}."
    return ""


def _is_right(completion: str, answer: Any, answer_format: Any) -> bool:
    reason = check_columns(answer, answer_format)
    if reason:
        raise ValueError(reason)
    if answer_format == "steps":
        last = completion.rpartition("=")[2]
        return _STEPS_ANSWER.fullmatch(last) is not None and int(last) == answer
    tagged = tagged_answer(completion)
    found = _TAGGED_ANSWER.fullmatch(tagged) if tagged is not None else None
    return found is not None and int(found[1]) == answer
