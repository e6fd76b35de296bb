"""Rush hour: the plan is carried out slide by slide, and the verdict says where it fails.

Columns: `board` (36 cells row by row: a letter for each cell of a car, `o` or `.` empty, `x` a
wall) and `answer_format`.

A slide is a car, a sign and a number of cells: `B+2` is two to the right or down, `B-1` one to the
left or up. Spaces, commas or line breaks stand between slides. Every cell on the way must be empty.
After the last slide car A must touch the right edge. With `steps` the plan is the whole completion,
with `tags` what stands in the last `<answer>` tag. Anything else is wrong, with the slide at fault
as detail.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from bapo.reward.verifiers.answers import tagged_answer

_SIDE: Final = 6
_CELLS: Final = _SIDE * _SIDE
_LONGEST: Final = 10_000
_SLIDE: Final = re.compile(r"([A-Z])([+-])([1-9])")
_FORM: Final = re.compile(r"[A-Zox.]{36}")

_BOARD: Final = "oooooo" "ooBooo" "AABooo" "oooooo" "oooooo" "CCCooo"  # fmt: skip
_STEPS: Final[dict[str, Any]] = {"board": _BOARD, "answer_format": "steps"}
_TAGS: Final[dict[str, Any]] = {"board": _BOARD, "answer_format": "tags"}

GOLDEN: Final[list[tuple[str, dict[str, Any], bool]]] = [
    ("B-1 A+4", _STEPS, True),
    ("C+1, B+2, C-1, B-3, A+4\n", _STEPS, True),
    ("C+3 B+3 A+4", _STEPS, True),
    ("up and out: <answer>B-1\nA+4</answer>", _TAGS, True),
    ("B-1 A+4", _TAGS, False),
    ("A+4", _STEPS, False),
    ("B-2 A+4", _STEPS, False),
    ("B-1 A+3", _STEPS, False),
    ("B-1 A+5", _STEPS, False),
    ("B-1 A+4 A-1", _STEPS, False),
    ("B-1 D+1 A+4", _STEPS, False),
    ("B-1 then A+4", _STEPS, False),
    ("", _STEPS, False),
]


def verify(
    completions: Sequence[str], board: Sequence[str], answer_format: Sequence[str]
) -> list[dict[str, Any]]:
    """Judges completions.

    Args:
        completions: Texts.
        board: The board of each.
        answer_format: `steps` or `tags`, of each.

    Returns:
        `correct` and `detail` for each.

    Raises:
        ValueError: A column has a value that makes no sense.
    """
    verdicts: list[dict[str, Any]] = []
    for text, cells, form in zip(completions, board, answer_format, strict=True):
        reason = check_columns(cells, form)
        if reason:
            raise ValueError(reason)
        plan = text if form == "steps" else tagged_answer(text)
        fault = "There is no <answer> tag." if plan is None else fault_of(plan, cells)
        verdicts.append({"correct": not fault, "detail": fault})
    return verdicts


def check_columns(board: Any, answer_format: Any, **others: Any) -> str:
    """Why a row's columns make no sense; empty where they do."""
    if not isinstance(board, str) or not _FORM.fullmatch(board):
        return f"The column 'board' must be 36 cells made of A to Z, o and x, but is {board!r}."
    for car, cells in _cars(board).items():
        strides = {after - before for before, after in pairwise(cells)}
        across = len(cells) > 1 and cells[0] // _SIDE == cells[-1] // _SIDE
        if strides != ({1} if across else {_SIDE}):
            return f"The column 'board' has the car {car}, whose cells are no line: {board!r}."
    if board[2 * _SIDE : 3 * _SIDE].count("A") != board.count("A") or "A" not in board:
        return f"The column 'board' must have car A in its third row, but is {board!r}."
    if answer_format not in ("steps", "tags"):
        return f"The column 'answer_format' must be 'steps' or 'tags', but is {answer_format!r}."
    return ""


def fault_of(plan: str, board: str) -> str:
    """Where a plan fails, in a sentence; empty where car A reaches the right edge."""
    if len(plan) > _LONGEST:
        return f"It has more than {_LONGEST} characters."
    cars = _cars(board)
    taken = {cell for cell, letter in enumerate(board) if letter not in "o."}
    for number, text in enumerate(plan.replace(",", " ").split(), start=1):
        slide = _SLIDE.fullmatch(text)
        if slide is None:
            return f"Slide {number}, {text[:40]!r}, cannot be read."
        car, sign, length = slide[1], 1 if slide[2] == "+" else -1, int(slide[3])
        if car not in cars:
            return f"Slide {number}, {text}: there is no car {car}."
        stride = sign * (cars[car][1] - cars[car][0])
        for _ in range(length):
            moved = [cell + stride for cell in cars[car]]
            if not _on_the_board(cars[car], moved):
                return f"Slide {number}, {text}, leaves the board."
            if (taken - set(cars[car])) & set(moved):
                return f"Slide {number}, {text}, runs into what stands in the way."
            taken = (taken - set(cars[car])) | set(moved)
            cars[car] = moved
    edge = cars["A"][-1] % _SIDE == _SIDE - 1
    return "" if edge else "After the last slide car A has not reached the right edge."


def _cars(board: str) -> dict[str, list[int]]:
    """The cells of each car, in order."""
    cars: dict[str, list[int]] = {}
    for cell, letter in enumerate(board):
        if letter.isupper():
            cars.setdefault(letter, []).append(cell)
    return cars


def _on_the_board(cells: Sequence[int], moved: Sequence[int]) -> bool:
    """Whether a car that moves by one cell stays on the board, and in its row where it lies so."""
    in_a_row = cells[1] - cells[0] == 1
    return (
        moved[0] >= 0
        and moved[-1] < _CELLS
        and (not in_a_row or moved[0] // _SIDE == moved[-1] // _SIDE == cells[0] // _SIDE)
    )
