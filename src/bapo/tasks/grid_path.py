"""Grid path: walk from the start to the goal, one step at a time, around the walls.

A planning task over reasoning-gym's `shortest_path`, which draws the grids. Grids without a way are
left out. The plan is carried out step by step by `bapo.reward.verifiers.grid_path`.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bapo.config import parse_task_options, setting
from bapo.tasks.gym_problems import GymProblem, GymProblems, hashed
from bapo.tasks.made_up import MadeUpTask, check_worked
from bapo.tasks.splits import Split
from bapo.types import ChatMessage, Prompt

_STEPS: Final = {"R": (0, 1), "D": (1, 0), "L": (0, -1), "U": (-1, 0)}


@dataclass(frozen=True, slots=True)
class GridPathSettings:
    """The knobs of difficulty and of format."""

    rows: int = setting(5, "rows of the grid", low=2, high=12)
    columns: int = setting(5, "columns of the grid", low=2, high=12)
    walls: float = setting(0.4, "chance of each cell to be a wall", low=0, high=0.9)
    fewest_steps: int = setting(2, "shorter ways are left out", low=1, high=60)
    shortest: bool = setting(True, "only a way with the fewest steps is right")
    answer_format: str = setting(
        "steps",
        "steps: a grid and letters for a small model; tags: a chat prompt and <answer> tags",
        choices=["steps", "tags"],
    )
    train_size: int = setting(2048, "training problems", low=1)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)


class GridPath(MadeUpTask):
    """The task; see the module docstring.

    Args:
        settings: The knobs.

    Raises:
        SettingError: reasoning-gym is not installed.
    """

    verifier: str = "bapo.reward.verifiers.grid_path:verify"
    alphabet: str = "OX*#/>RDLU\n"

    def __init__(self, settings: GridPathSettings) -> None:
        super().__init__(settings.train_size, "widen the task's settings")
        self._settings = settings
        options = {
            **{"min_rows": settings.rows, "max_rows": settings.rows},
            **{"min_cols": settings.columns, "max_cols": settings.columns},
            "p_blocked": settings.walls,
        }
        seed = settings.seed
        self._problems = GymProblems("shortest_path", options, seed, self._problem, cold_start=True)

    @property
    def name(self) -> str:
        """`grid-path`."""
        return "grid-path"

    def _different(self, split: Split, count: int) -> list[Prompt]:
        return [problem.prompt for problem in self._problems.different(split, count)]

    def worked_example(self, index: int) -> tuple[str, str]:
        """Prompt and shortest way of cold-start problem `index`.

        Raises:
            SettingError: The answer format is not `steps`, the only one that small models learn.
        """
        check_worked("answer_format", self._settings.answer_format)
        problem = self._problems.nth(Split.WARMSTART, index)
        return str(problem.prompt.content), problem.solution

    def _problem(self, row: Mapping[str, Any]) -> GymProblem | None:
        grid = ["".join(line) for line in row["entry"]["metadata"]["matrix"]]
        way = shortest_way(grid)
        if way is None or len(way) < self._settings.fewest_steps:
            return None
        text = "/".join(grid)
        steps = self._settings.answer_format == "steps"
        columns: dict[str, Any] = {
            "grid": grid,
            "most_steps": len(way) if self._settings.shortest else None,
            "answer_format": self._settings.answer_format,
        }
        content = f"{text}>\n" if steps else chat_prompt(grid, shortest=self._settings.shortest)
        prompt = Prompt(f"grid-{hashed(text)}", content, columns, f"{len(way)} steps")
        return GymProblem(text, prompt, way)


def shortest_way(grid: list[str]) -> str | None:
    """The letters of a way from `*` to `#` with the fewest steps; None where there is no way."""
    cells = {(r, c): cell for r, line in enumerate(grid) for c, cell in enumerate(line)}
    start = next(place for place, cell in cells.items() if cell == "*")
    ways = {start: ""}
    queue = deque([start])
    while queue:
        place = queue.popleft()
        if cells[place] == "#":
            return ways[place]
        for letter, (down, right) in _STEPS.items():
            near = (place[0] + down, place[1] + right)
            if cells.get(near, "X") != "X" and near not in ways:
                ways[near] = ways[place] + letter
                queue.append(near)
    return None


def chat_prompt(grid: list[str], *, shortest: bool) -> tuple[ChatMessage, ...]:
    """A chat prompt for instruction models, answered between `<answer>` tags."""
    fewest = " with as few steps as possible" if shortest else ""
    return (
        ChatMessage(
            "user",
            f"Find a way through this grid from * to #{fewest}. O is open, X is a wall.\n\n"
            + "\n".join(" ".join(line) for line in grid)
            + "\n\nA step goes right (R), down (D), left (L) or up (U). Think step by step, then "
            "give the letters of all steps alone between <answer> and </answer>, for example "
            "<answer>RRDL</answer>.",
        ),
    )


def build_grid_path(options: Mapping[str, Any]) -> GridPath:
    """The task from a recipe's options."""
    return GridPath(parse_task_options(GridPathSettings, options))
