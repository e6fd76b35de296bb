"""Rush hour: slide cars on a crowded board until the first one can leave on the right.

A planning task over reasoning-gym's `rush_hour`, which brings some 18,000 boards, each with the
fewest slides that it takes (Michael Fogleman's data base, www.michaelfogleman.com/rush). It brings
no solutions: those of the cold start are found by a search. The plan is carried out slide by slide
by `bapo.reward.verifiers.rush_hour`; the gym's own scorer passes over slides that are not possible.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from bapo.config import parse_task_options, setting
from bapo.errors import SettingError
from bapo.tasks.gym_problems import GymProblem, GymProblems
from bapo.tasks.made_up import MadeUpTask, check_worked
from bapo.tasks.splits import Split
from bapo.types import ChatMessage, Prompt

_SIDE: Final = 6
_EMPTY: Final = "o"


@dataclass(frozen=True, slots=True)
class RushHourSettings:
    """The knobs of difficulty and of format."""

    fewest_slides: int = setting(1, "slides that the shortest plan takes at least", low=1, high=50)
    most_slides: int = setting(6, "slides that the shortest plan takes at most", low=1, high=60)
    answer_format: str = setting(
        "steps",
        "steps: a board and slides for a small model; tags: a chat prompt and <answer> tags",
        choices=["steps", "tags"],
    )
    train_size: int = setting(512, "training problems", low=1)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)


class RushHour(MadeUpTask):
    """The task; see the module docstring.

    Args:
        settings: The knobs.

    Raises:
        SettingError: reasoning-gym is not installed, or the knobs do not fit together.
    """

    verifier: str = "bapo.reward.verifiers.rush_hour:verify"
    alphabet: str = "oxABCDEFGHIJKLMNOPQRSTUVWXYZ+-0123456789 \n"

    def __init__(self, settings: RushHourSettings) -> None:
        if settings.fewest_slides > settings.most_slides:
            raise SettingError(
                f"'task.fewest_slides' is {settings.fewest_slides}, above 'task.most_slides' "
                f"({settings.most_slides}); swap them."
            )
        super().__init__(settings.train_size, "widen the task's settings")
        self._settings = settings
        options = {"min_moves": settings.fewest_slides, "max_moves": settings.most_slides}
        self._problems = GymProblems(
            "rush_hour", options, settings.seed, self._problem, cold_start=True
        )

    @property
    def name(self) -> str:
        """`rush-hour`."""
        return "rush-hour"

    def _different(self, split: Split, count: int) -> list[Prompt]:
        return [problem.prompt for problem in self._problems.different(split, count)]

    def worked_example(self, index: int) -> tuple[str, str]:
        """Prompt and shortest plan of cold-start problem `index`; boards come again and again.

        Raises:
            SettingError: The answer format is not `steps`, the only one that small models learn.
        """
        check_worked("answer_format", self._settings.answer_format)
        problem = self._problems.nth(Split.WARMSTART, index)
        return str(problem.prompt.content), shortest_plan(problem.identity)

    def _problem(self, row: Mapping[str, Any]) -> GymProblem:
        metadata = row["entry"]["metadata"]
        board = str(metadata["board_config"])
        steps = self._settings.answer_format == "steps"
        columns = {"board": board, "answer_format": self._settings.answer_format}
        content = f"{board}\n" if steps else chat_prompt(board)
        return GymProblem(board, Prompt(board, content, columns, f"{metadata['min_moves']} slides"))


@cache
def shortest_plan(board: str) -> str:
    """A plan with the fewest slides, such as `B+2 A+3`.

    Args:
        board: 36 cells, row by row: a letter for each cell of a car, `o` empty, `x` a wall.
    """
    came_from: dict[str, tuple[str, str]] = {board: ("", "")}
    queue = deque([board])
    while queue:
        state = queue.popleft()
        if state[3 * _SIDE - 1] == "A":
            slides: list[str] = []
            while came_from[state][1]:
                state, slide = came_from[state]
                slides.append(slide)
            return " ".join(reversed(slides))
        for slide, after in _slides(state):
            if after not in came_from:
                came_from[after] = (state, slide)
                queue.append(after)
    raise AssertionError(f"no plan for the board {board}, which the gym calls solvable")


def _slides(board: str) -> Iterator[tuple[str, str]]:
    """Every slide that is possible, with the board after it."""
    for car in sorted(set(board) - {_EMPTY, "x"}):
        cells = [cell for cell, letter in enumerate(board) if letter == car]
        stride = cells[1] - cells[0]
        for sign, end in ((1, cells[-1]), (-1, cells[0])):
            place, length = end + sign * stride, 1
            while _is_beside(place - sign * stride, place, stride) and board[place] == _EMPTY:
                moved = {cell + sign * length * stride for cell in cells}
                without = board.replace(car, _EMPTY)
                after = "".join(car if i in moved else old for i, old in enumerate(without))
                yield f"{car}{'+' if sign > 0 else '-'}{length}", after
                place, length = place + sign * stride, length + 1


def _is_beside(cell: int, other: int, stride: int) -> bool:
    """Whether one step of a car leads from a cell to the other, and not off the board."""
    if not 0 <= other < _SIDE * _SIDE:
        return False
    return stride == _SIDE or cell // _SIDE == other // _SIDE


def chat_prompt(board: str) -> tuple[ChatMessage, ...]:
    """A chat prompt for instruction models, answered between `<answer>` tags."""
    lines = "\n".join(" ".join(board[i : i + _SIDE]) for i in range(0, len(board), _SIDE))
    return (
        ChatMessage(
            "user",
            "On this board each letter is a car, o is empty and x is a wall. Slide cars until car "
            f"A reaches the right edge.\n\n{lines}\n\nA car slides only along its own line, over "
            "empty cells. B+2 slides car B two cells to the right or down, B-1 one cell to the "
            "left or up. Think step by step, then give all slides alone between <answer> and "
            "</answer>, for example <answer>B+2 A+3</answer>.",
        ),
    )


def build_rush_hour(options: Mapping[str, Any]) -> RushHour:
    """The task from a recipe's options."""
    return RushHour(parse_task_options(RushHourSettings, options))
