"""Countdown: was the target reached from the given numbers? Exact, in integers and fractions.

Columns: `numbers` (whole numbers), `target` (a whole number), `answer_format`, and optionally
`use_all` (every number must go into the answer; otherwise each may be used at most once).

answer_format "steps": `3*5=15,15+7=22`. Each step takes two numbers that are there, the given ones
and earlier results, uses them up, and leaves its result. All numbers are whole, so a division must
be even. The last result is the answer. Spaces do not matter, nor does the order of operands.

answer_format "expression": what stands in the last `<answer>...</answer>`, such as `(3*5)+7` or
`(3 × 5) + 7 = 22`. Values between may be fractions. Where no tag is closed, because `</answer>` is
a stop string, the answer runs to the end of the text.

Any other text is wrong. Columns that make no sense are an error, never a wrong answer.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, cast

from bapo.reward.verifiers.answers import tagged_answer
from bapo.reward.verifiers.arithmetic import (
    MAX_CHARACTERS,
    MAX_DIGITS,
    ExpressionError,
    apply,
    evaluate,
    normalise,
)

_NUMBER: Final = rf"(-?[0-9]{{1,{MAX_DIGITS}}})"
_STEP: Final = re.compile(rf"\s*{_NUMBER}\s*([-+*/])\s*{_NUMBER}\s*=\s*{_NUMBER}\s*")
_TAIL: Final = re.compile(rf"\s*{_NUMBER}\s*")

_STEPS: Final = {"numbers": [3, 5, 7], "target": 22, "answer_format": "steps"}
_EXPRESSION: Final = {"numbers": [3, 5, 7], "target": 22, "answer_format": "expression"}
_EIGHTS: Final = {"numbers": [3, 3, 8, 8], "target": 24, "answer_format": "expression"}

GOLDEN: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("3*5=15,15+7=22", _STEPS, True),
    ("5*3=15,7+15=22", _STEPS, True),
    ("3*5=15,15+7=23", _STEPS, False),
    ("3*5=16,16+7=22", _STEPS, False),
    ("3*5=15,15+5=20,20+2=22", _STEPS, False),
    ("7/3=2,2+5=7", {**_STEPS, "target": 7}, False),
    ("3+5=8", {**_STEPS, "target": 8}, True),
    ("3+5=8", {**_STEPS, "target": 8, "use_all": True}, False),
    ("", _STEPS, False),
    ("<answer>(3*5)+7</answer>", _EXPRESSION, True),
    ("first <answer>3+5+7</answer>, no: <answer>7 + 3 × 5 = 22</answer>", _EXPRESSION, True),
    ("<answer>(3*5)+7 = 23</answer>", _EXPRESSION, False),
    ("<answer>5*5-3</answer>", _EXPRESSION, False),
    ("(3*5)+7", _EXPRESSION, False),
    ("<answer>8/(3-8/3)</answer>", _EIGHTS, True),
    ("<answer>8/(3-3)</answer>", _EIGHTS, False),
    ("<answer>22</answer>", _EXPRESSION, False),
]


def verify(
    completions: Sequence[str],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    answer_format: Sequence[str],
    use_all: Sequence[bool] | None = None,
) -> list[bool]:
    """Whether each completion reaches its target.

    Args:
        completions: Texts.
        numbers: The given numbers of each.
        target: The target of each.
        answer_format: `steps` or `expression`, of each.
        use_all: Whether every number must be used, of each.

    Returns:
        One bool for each completion.

    Raises:
        ValueError: A column has a value that makes no sense.
    """
    demands = use_all if use_all is not None else [False] * len(completions)
    rows = zip(completions, numbers, target, answer_format, demands, strict=True)
    return [_is_right(*row) for row in rows]


def check_columns(
    numbers: Any, target: Any, answer_format: Any, use_all: Any = False, **others: Any
) -> str:
    """Why a row's columns make no sense; empty where they do."""
    given = cast("list[Any]", numbers) if isinstance(numbers, (list, tuple)) else []
    if not given or not all(_is_whole(number) for number in given):
        return f"The column 'numbers' must be a list of whole numbers, but is {numbers!r}."
    if not _is_whole(target):
        return f"The column 'target' must be a whole number, but is {target!r}."
    if not isinstance(use_all, bool):
        return f"The column 'use_all' must be true or false, but is {use_all!r}."
    if answer_format not in ("steps", "expression"):
        return (
            f"The column 'answer_format' must be 'steps' or 'expression', but is {answer_format!r}."
        )
    return ""


def _is_right(completion: str, numbers: Any, target: Any, answer_format: Any, use_all: Any) -> bool:
    reason = check_columns(numbers, target, answer_format, use_all)
    if reason:
        raise ValueError(reason)
    reaches = steps_reach if answer_format == "steps" else expression_reaches
    return reaches(completion, list(numbers), target, use_all=use_all)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def steps_reach(text: str, numbers: Sequence[int], target: int, *, use_all: bool) -> bool:
    """Whether worked steps lead from the numbers to the target; see the module docstring."""
    if len(text) > MAX_CHARACTERS:
        return False
    there = Counter(numbers)
    result: int | None = None
    for step in text.split(","):
        match = _STEP.fullmatch(step)
        if match is None:
            return False
        left, right, result = int(match[1]), int(match[3]), int(match[4])
        there.subtract((left, right))
        if there[left] < 0 or there[right] < 0:
            return False
        try:
            if apply(Fraction(left), match[2], Fraction(right)) != result:
                return False
        except ExpressionError:
            return False
        there[result] += 1
    return result == target and (not use_all or +there == Counter([target]))


def expression_reaches(text: str, numbers: Sequence[int], target: int, *, use_all: bool) -> bool:
    """Whether the tagged expression has the target's value; see the module docstring."""
    answer = tagged_answer(text)
    if answer is None or len(answer) > MAX_CHARACTERS:
        return False
    expression, equals, tail = normalise(answer).partition("=")
    if equals:
        claimed = _TAIL.fullmatch(tail)
        if claimed is None or int(claimed[1]) != target:
            return False
    try:
        value, unused = evaluate(expression, numbers)
    except ExpressionError:
        return False
    return value == target and not (use_all and unused)
