"""Grid path: the plan is carried out step by step, and the verdict says where it fails.

Columns: `grid` (lines of equal length made of O, X, one * and one #), `most_steps` (a plan with
more is wrong; null allows any number), and `answer_format`.

The plan is made of the letters R, D, L, U; spaces, commas and line breaks between them do not
count. With `steps` it is the whole completion, with `tags` what stands in the last `<answer>` tag.
Each step must stay in the grid and off the walls, and the last one must end at the goal; passing
over the goal is no arrival. Anything else is wrong, with the step at fault as detail.
"""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

from bapo.reward.verifiers.answers import tagged_answer

_STEPS: Final = {"R": (0, 1), "D": (1, 0), "L": (0, -1), "U": (-1, 0)}
_BETWEEN: Final = re.compile(r"[\s,]+")
_LONGEST: Final = 10_000

_GRID: Final = ["*OX", "XOO", "X#O"]
_STRICT: Final[dict[str, Any]] = {"grid": _GRID, "most_steps": 3, "answer_format": "steps"}
_FREE: Final[dict[str, Any]] = {"grid": _GRID, "most_steps": None, "answer_format": "tags"}

GOLDEN: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("RDD", _STRICT, True),
    ("R D, D\n", _STRICT, True),
    ("RDRDL", _STRICT, False),
    ("<answer>RDRDL</answer>", _FREE, True),
    ("so <answer>RDD</answer>", _FREE, True),
    ("RDD", _FREE, False),
    ("DDR", _STRICT, False),
    ("LRRDD", {**_STRICT, "most_steps": None}, False),
    ("RD", _STRICT, False),
    ("RDDU", {**_STRICT, "most_steps": None}, False),
    ("rdd", _STRICT, False),
    ("", _STRICT, False),
]


def verify(
    completions: Sequence[str],
    grid: Sequence[list[str]],
    most_steps: Sequence[int | None],
    answer_format: Sequence[str],
) -> list[dict[str, Any]]:
    """Judges completions.

    Args:
        completions: Texts.
        grid: The grid of each.
        most_steps: The steps that each may take at most; None is any number.
        answer_format: `steps` or `tags`, of each.

    Returns:
        `correct` and `detail` for each.

    Raises:
        ValueError: A column has a value that makes no sense.
    """
    verdicts: list[dict[str, Any]] = []
    rows = zip(completions, grid, most_steps, answer_format, strict=True)
    for text, lines, most, form in rows:
        reason = check_columns(lines, most, form)
        if reason:
            raise ValueError(reason)
        plan = text if form == "steps" else tagged_answer(text)
        fault = "There is no <answer> tag." if plan is None else fault_of(plan, lines, most)
        verdicts.append({"correct": not fault, "detail": fault})
    return verdicts


def check_columns(grid: Any, most_steps: Any, answer_format: Any, **others: Any) -> str:
    """Why a row's columns make no sense; empty where they do."""
    lines = cast("list[Any]", grid) if isinstance(grid, list) else []
    if not lines or not all(isinstance(line, str) and len(line) == len(lines[0]) for line in lines):
        return f"The column 'grid' must be a list of lines of equal length, but is {grid!r}."
    text = "".join(lines)
    if set(text) - set("OX*#") or text.count("*") != 1 or text.count("#") != 1:
        return f"The column 'grid' must be made of O, X, one * and one #, but is {grid!r}."
    whole = isinstance(most_steps, int) and not isinstance(most_steps, bool)
    if most_steps is not None and not whole:
        return f"The column 'most_steps' must be a whole number or null, but is {most_steps!r}."
    if answer_format not in ("steps", "tags"):
        return f"The column 'answer_format' must be 'steps' or 'tags', but is {answer_format!r}."
    return ""


def fault_of(plan: str, grid: Sequence[str], most_steps: int | None) -> str:
    """Where a plan fails, in a sentence; empty where it reaches the goal."""
    if len(plan) > _LONGEST:
        return f"It has more than {_LONGEST} characters."
    row, column = next((r, line.index("*")) for r, line in enumerate(grid) if "*" in line)
    steps = _BETWEEN.sub("", plan)
    for number, letter in enumerate(steps, start=1):
        if letter not in _STEPS:
            return f"Step {number}, {letter!r}, is none of R, D, L, U."
        row, column = row + _STEPS[letter][0], column + _STEPS[letter][1]
        place = f"row {row + 1}, column {column + 1}"
        if not (0 <= row < len(grid) and 0 <= column < len(grid[0])):
            return f"Step {number}, {letter}, leaves the grid."
        if grid[row][column] == "X":
            return f"Step {number}, {letter}, runs into the wall at {place}."
    if grid[row][column] != "#":
        return f"After {len(steps)} steps it is at row {row + 1}, column {column + 1}, no goal."
    if most_steps is not None and len(steps) > most_steps:
        return f"It takes {len(steps)} steps where {most_steps} are enough."
    return ""
