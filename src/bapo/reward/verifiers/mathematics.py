r"""Mathematics: is the final answer equal to the gold answer? math-verify does the comparing.

Column: `answer`, the gold answer: a number, a LaTeX formula, or words. One that still stands in a
solution is taken out of it, after `####` or from the last `\boxed`.

Where the final answer stands in a completion is told in `bapo.reward.verifiers.final_answer`; both
answers are then written in one notation (`bapo.reward.verifiers.notation`). What is compared how:

- words (`\text{Monday}`, a choice such as `(C)`): as words, upper and lower case alike;
- a number with a base (`101_2`): digit by digit; the base may be left out of the answer;
- plain numbers: exactly;
- everything else: by math-verify, the gold answer first, since its `verify` is not symmetric.

An answer without a unit is right where the gold one has one, and the other way round; of two known
units that differ, the answer is wrong (units are not converted). A gold answer that cannot be read
is `invalid` with its reason, and `check_columns` refuses it before the first step; an answer that
cannot be read is wrong.

math-verify's time limits are off: they need SIGALRM, and the pool kills what is over its limit.
Model text is parsed by sympy here and so must never be verified in the training process.
"""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Final, cast

from bapo.reward.verifiers.final_answer import LONGEST_ANSWER, final_answer, last_boxed
from bapo.reward.verifiers.notation import (
    must_be_words,
    normalise,
    plain_number,
    unit_of,
    without_trailing_words,
    words_of,
)

try:
    import math_verify  # pyright: ignore[reportMissingTypeStubs]
    from math_verify.parser import LatexExtractionConfig  # pyright: ignore[reportMissingTypeStubs]
except ImportError as error:
    raise ImportError("the mathematics verifier needs math-verify: install bapo[math]") from error

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its limits are off

_BASED: Final = re.compile(r"([0-9A-Fa-f]+)_\{?(\d+)\}?")
_PARSED_AS_LATEX: Final = (LatexExtractionConfig(boxed_match_priority=0),)
# What sympy raises for expressions that make no sense, such as a matrix compared with a set.
_SENSELESS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError),
    *(SyntaxError, TypeError, ValueError),
)


def golden_table() -> list[tuple[str, str, str, bool]]:
    """The golden table: `(kind, gold answer, completion, right)` for each row."""
    file = resources.files("bapo.reward.verifiers").joinpath("mathematics_golden.jsonl")
    rows: list[tuple[str, str, str, bool]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        kind, gold, completion, right = cast("tuple[str, str, str, bool]", json.loads(line))
        rows.append((kind, gold, completion, right))
    return rows


def _start_up_cases() -> list[tuple[str, dict[str, Any], bool]]:
    """One right and one wrong answer of each kind in the golden table: a second's work."""
    chosen: dict[tuple[str, bool], tuple[str, dict[str, Any], bool]] = {}
    for kind, gold, completion, right in golden_table():
        chosen.setdefault((kind, right), (completion, {"answer": gold}, right))
    return [*chosen.values()]


GOLDEN: Final = _start_up_cases()


class GoldError(ValueError):
    """The gold answer cannot be read; the message says so."""


def verify(
    completions: Sequence[str], answer: Sequence[Any], **columns: Any
) -> list[bool | dict[str, Any]]:
    """Whether the final answer of each completion equals its gold answer.

    Args:
        completions: Texts.
        answer: The gold answer of each; a text or a number.
        **columns: Not looked at.

    Returns:
        One bool for each completion, or a verdict `invalid` where its gold answer cannot be read.
    """
    return [_verdict(text, gold) for text, gold in zip(completions, answer, strict=True)]


def check_columns(answer: Any, **columns: Any) -> str:
    """Why the gold answer of a row cannot be read; empty where it can."""
    try:
        _read_gold(_gold_text(answer))
    except GoldError as reason:
        return str(reason)
    return ""


def _verdict(completion: str, answer: Any) -> bool | dict[str, Any]:
    try:
        gold = _gold_text(answer)
        _read_gold(gold)
    except GoldError as reason:
        return {"correct": False, "status": "invalid", "detail": str(reason)}
    return is_right(completion, gold)


def _gold_text(answer: Any) -> str:
    """The gold answer as text, out of its solution where it stands in one."""
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise GoldError(f"The gold answer must be a text or a number, but is {answer!r:.100}.")
    text = str(answer)
    if "####" in text:
        return text.rpartition("####")[2].strip()
    return (last_boxed(text) or text).strip()


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[Any, ...]:
    """What math-verify makes of a gold answer; nothing where it is words or has a base.

    Raises:
        GoldError: It cannot be read.
    """
    if not gold:
        raise GoldError("The gold answer is empty.")
    if len(gold) > LONGEST_ANSWER:
        raise GoldError(
            f"The gold answer has {len(gold)} characters, more than {LONGEST_ANSWER}; give the "
            "final answer alone."
        )
    written = normalise(gold)
    if (words_of(gold) is not None and must_be_words(gold)) or _BASED.fullmatch(written):
        return ()
    parsed = _parse_marked(written)
    if not parsed:
        raise GoldError(f"The gold answer {gold!r} cannot be read as mathematics.")
    return parsed


def is_right(completion: str, gold: str) -> bool:
    """Whether a completion's final answer equals a gold answer that can be read."""
    found = final_answer(completion)
    if not found.text or (found.marked and len(found.text) > LONGEST_ANSWER):
        return False
    words = words_of(gold)
    if words is not None:
        if words_of(found.text) == words:
            return True
        if must_be_words(gold):
            return False
    written, answer = normalise(gold), normalise(found.text)
    based = _BASED.fullmatch(written)
    if based is not None:
        given = _BASED.fullmatch(answer)
        return answer == based[1] if given is None else given.groups() == based.groups()
    exact, claimed = plain_number(written), plain_number(without_trailing_words(answer))
    if exact is not None and claimed is not None and found.marked:
        if exact == claimed:
            return True
        if exact.denominator == claimed.denominator == 1:
            return False
    units = unit_of(written), unit_of(answer)
    if None not in units and units[0] != units[1]:
        return False
    parsed = _parse_marked(answer) if found.marked else _parse_text(found.text)
    return _equal(_read_gold(gold), parsed)


def _parse_marked(text: str) -> tuple[Any, ...]:
    """What math-verify makes of a text that is an answer and nothing else."""
    return _parse(f"\\boxed{{{without_trailing_words(text)}}}", list(_PARSED_AS_LATEX))


def _parse_text(text: str) -> tuple[Any, ...]:
    """What math-verify finds in a text that holds an answer somewhere."""
    return _parse(text, None)


def _parse(text: str, extraction: list[LatexExtractionConfig] | None) -> tuple[Any, ...]:
    """Parsed expressions; texts that could not be parsed are left out."""
    chosen: dict[str, Any] = {} if extraction is None else {"extraction_config": extraction}
    parse = cast("Any", math_verify.parse)
    try:
        found: list[Any] = parse(text, parsing_timeout=None, raise_on_error=True, **chosen)
    except _SENSELESS:
        return ()
    return tuple(one for one in found if not isinstance(one, str))


def _equal(gold: tuple[Any, ...], answer: tuple[Any, ...]) -> bool:
    compare = cast("Any", math_verify.verify)
    try:
        return bool(
            compare(
                list(gold),
                list(answer),
                allow_set_relation_comp=True,
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except _SENSELESS:
        return False
