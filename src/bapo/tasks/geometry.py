"""Geometry: find the missing number of a drawn figure, which only the picture tells.

In the spirit of Geometry3K (arXiv 2105.04165): a triangle, an angle at parallel lines, a divided
segment, with labelled angles or lengths and one of them `x`. The question never names a number and
is the same for all figures, so that whoever cannot see can only guess; `task.blank_images=true`
shows what guessing is worth. Figures are sketches, as in an exam: which angle is which is where it
stands, and sizes are not to scale.

Disjoint by construction: a problem is identified by its figure and its numbers, and a hash of that
identity alone, whatever the seed and the index, says whether it belongs to the cold start, to
training or to evaluation. How a figure is drawn (corners moved, mirrored) follows from the seed
and makes no other problem.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bapo.config import parse_task_options, setting
from bapo.errors import DataError
from bapo.tasks.figures import FIGURES, Figure
from bapo.tasks.made_up import MadeUpTask, Mixture, check_worked
from bapo.tasks.splits import ATTEMPTS, Split, different, draw_row
from bapo.types import IMAGE_MARK, ChatMessage, ImageKind, ImageReference, Prompt

VERIFIER: Final = "bapo.reward.verifiers.geometry:verify"
SOURCE: Final = "geometry"


@dataclass(frozen=True, slots=True)
class GeometrySettings:
    """The knobs of difficulty and of format."""

    levels: tuple[int, ...] = setting(
        (1, 2, 3), "how many labelled numbers a figure may have", low=1, high=3
    )
    weights: tuple[float, ...] = setting(
        (), "share of each level in `levels`; empty means equal", low=0
    )
    picture_size: int = setting(56, "pixels a side of a picture", low=56, high=2048)
    answer_format: str = setting(
        "steps",
        "steps: worked steps for a small model; tags: a chat prompt and <answer> tags",
        choices=["steps", "tags"],
    )
    train_size: int = setting(2048, "training problems", low=1)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        figure: Its figure's name in `FIGURES`.
        numbers: The labelled numbers, in the figure's order.
        style: Decides how the figure is drawn, and nothing else.
    """

    figure: str
    numbers: tuple[int, ...]
    style: int

    @property
    def identity(self) -> str:
        """What makes it this problem and no other."""
        return f"{self.figure}-{'.'.join(map(str, self.numbers))}"


class Geometry(MadeUpTask):
    """The geometry task; see the module docstring.

    Args:
        settings: The knobs.

    Raises:
        SettingError: The knobs do not fit together.
    """

    alphabet: str = "0123456789+-=,x?"
    verifier: str = VERIFIER

    def __init__(self, settings: GeometrySettings) -> None:
        super().__init__(settings.train_size, "add a level to 'task.levels'")
        self._levels = Mixture("levels", settings.levels, settings.weights)
        self._settings = settings
        self._figures: dict[int, list[Figure]] = {
            level: [one for one in FIGURES.values() if one.level == level]
            for level in settings.levels
        }

    @property
    def name(self) -> str:
        """`geometry`, with its levels where not all are asked."""
        levels = self._settings.levels
        return "geometry" if levels == (1, 2, 3) else f"geometry-{''.join(map(str, levels))}"

    def worked_images(self, index: int) -> tuple[ImageReference, ...]:
        """The picture of cold-start problem `index`."""
        return self.prompt(self.row(Split.WARMSTART, index)).images

    def worked_example(self, index: int) -> tuple[str, str]:
        """Prompt text and worked steps of cold-start problem `index`.

        Raises:
            SettingError: The answer format is not `steps`, the only one that small models learn.
        """
        check_worked("answer_format", self._settings.answer_format)
        problem = self.row(Split.WARMSTART, index)
        return _STEPS_QUESTION, FIGURES[problem.figure].steps(*problem.numbers)

    def row(self, split: Split, index: int) -> Problem:
        """Problem `index` of a split, from the seed and the index alone.

        Raises:
            DataError: The knobs leave no problem to be found.
        """
        problem = draw_row(self._draw, self._settings.seed, split, index)
        if problem is None:
            raise DataError(f"No geometry problem was found in {ATTEMPTS} attempts.")
        return problem

    def prompt(self, problem: Problem) -> Prompt:
        """The problem as a prompt in the configured format."""
        steps = self._settings.answer_format == "steps"
        figure = FIGURES[problem.figure]
        detail = {
            "figure": problem.figure,
            "numbers": list(problem.numbers),
            "style": problem.style,
            "size": self._settings.picture_size,
        }
        return Prompt(
            prompt_id=problem.identity,
            content=_STEPS_QUESTION if steps else (ChatMessage("user", _QUESTION),),
            columns={
                "answer": figure.answer(*problem.numbers),
                "answer_format": self._settings.answer_format,
            },
            level=f"level {figure.level}",
            images=(ImageReference(ImageKind.DRAWN, SOURCE, json.dumps(detail, sort_keys=True)),),
        )

    def _different(self, split: Split, count: int) -> list[Prompt]:
        problems = different(lambda index: self.row(split, index), count)
        return [self.prompt(problem) for problem in problems]

    def _draw(self, rng: np.random.Generator) -> Problem:
        """One random problem, of any split."""
        shares = rng.random(2).tolist()
        figures = self._figures[self._levels.value_at(shares[0])]
        figure = figures[int(shares[1] * len(figures))]
        return Problem(figure.name, figure.numbers(rng), int(rng.integers(1 << 32)))


_STEPS_QUESTION: Final = f"{IMAGE_MARK}x?"
_QUESTION: Final = (
    f"{IMAGE_MARK}Find x in this figure. Angles are in degrees, x in the middle of a triangle with "
    "labelled sides is its perimeter, and the figure is not to scale. Think step by step, then "
    "give the whole number alone between <answer> and </answer>, for example <answer>42</answer>."
)


def draw(detail: str) -> Any:
    """The picture of a problem, from the detail of its reference.

    Args:
        detail: JSON text with `figure`, `numbers`, `style` and `size`.

    Returns:
        A square RGB image of Pillow.
    """
    spec: dict[str, Any] = json.loads(detail)
    rng = np.random.Generator(np.random.PCG64(spec["style"]))
    return FIGURES[spec["figure"]].picture(tuple(spec["numbers"]), spec["size"], rng)


def build_geometry(options: Mapping[str, Any]) -> Geometry:
    """The task from a recipe's options."""
    return Geometry(parse_task_options(GeometrySettings, options))
