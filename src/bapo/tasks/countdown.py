"""Countdown: reach a target from given numbers with + - * /, each number used at most once.

The paper's planning domain. CD-3 gives three numbers, CD-4 four, CD-34 a mix of both. Every problem
is made by playing a random solution, so each has one; the solution is its gold answer.

Disjoint by construction: a problem is identified by its sorted numbers and its target, and a hash
of that identity alone, whatever the seed and the index, says whether it belongs to the cold start,
to training or to evaluation. A row that falls into another split is drawn again.

A row is a function of the seed and its index alone: its generator is made from them, and a game
that misses the target range is played again from the same generator. Because the number of given
numbers is drawn anew with every game, counts that hit the range more often are met more often than
`weights` says (with the defaults 56 % CD-3 and 44 % CD-4).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bapo.config import parse_task_options, setting
from bapo.errors import DataError, SettingError
from bapo.tasks.made_up import MadeUpTask, Mixture, check_worked
from bapo.tasks.splits import ATTEMPTS, Split, different, draw_row
from bapo.types import ChatMessage, Prompt

VERIFIER: Final = "bapo.reward.verifiers.countdown:verify"


@dataclass(frozen=True, slots=True)
class CountdownSettings:
    """The knobs of difficulty and of format."""

    numbers: tuple[int, ...] = setting((3, 4), "how many numbers a problem gives", low=2, high=6)
    weights: tuple[float, ...] = setting(
        (), "share of each count in `numbers` among the games played; empty means equal", low=0
    )
    largest: int = setting(20, "given numbers are drawn from 1 to this", low=2, high=100)
    target_low: int = setting(10, "smallest target", low=1)
    target_high: int = setting(99, "largest target", low=1, high=10_000)
    operations: str = setting("+-*/", "operations that the solution behind a problem may use")
    answer_format: str = setting(
        "steps",
        "steps: worked steps for a small model; expression: a chat prompt and <answer> tags",
        choices=["steps", "expression"],
    )
    train_size: int = setting(2048, "training problems", low=1, high=100_000)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem and the solution it was made from.

    Attributes:
        numbers: The given numbers, in the order shown.
        target: The number to reach.
        steps: The gold solution: `(left, operation, right, result)`, all positive whole numbers.
    """

    numbers: tuple[int, ...]
    target: int
    steps: tuple[tuple[int, str, int, int], ...]

    @property
    def identity(self) -> str:
        """What makes it this problem and no other: the numbers in any order, and the target."""
        return f"cd{len(self.numbers)}-{'.'.join(map(str, sorted(self.numbers)))}-{self.target}"

    @property
    def split(self) -> Split:
        """The one split that this problem belongs to."""
        return Split.of(self.identity)


class Countdown(MadeUpTask):
    """The Countdown task; see the module docstring.

    Args:
        settings: The knobs.

    Raises:
        SettingError: The knobs do not fit together.
    """

    alphabet: str = "0123456789+-*/=,> \n"
    verifier: str = VERIFIER

    def __init__(self, settings: CountdownSettings) -> None:
        widen = "raise 'task.largest' or widen 'task.target_low' and 'task.target_high'"
        super().__init__(settings.train_size, widen)
        self._counts = Mixture("numbers", settings.numbers, settings.weights)
        _check_together(settings)
        self._settings = settings

    @property
    def name(self) -> str:
        """`CD-3`, `CD-4`, `CD-34`."""
        return "CD-" + "".join(map(str, self._settings.numbers))

    def worked_example(self, index: int) -> tuple[str, str]:
        """Prompt and worked steps of cold-start problem `index`.

        Raises:
            SettingError: The answer format is not `steps`, the only one that small models learn.
        """
        check_worked("answer_format", self._settings.answer_format)
        problem = self.row(Split.WARMSTART, index)
        return steps_prompt(problem), worked_steps(problem)

    def row(self, split: Split, index: int) -> Problem:
        """Problem `index` of a split, from the seed and the index alone.

        Raises:
            DataError: The knobs leave no problem to be found.
        """
        problem = draw_row(self._play, self._settings.seed, split, index)
        if problem is not None:
            return problem
        raise DataError(
            f"No Countdown problem was found in {ATTEMPTS} attempts with numbers up to "
            f"{self._settings.largest} and targets {self._settings.target_low} to "
            f"{self._settings.target_high}; widen 'task.target_low' and 'task.target_high'."
        )

    def _different(self, split: Split, count: int) -> list[Prompt]:
        rows = different(lambda index: self.row(split, index), count)
        return [self.prompt(problem) for problem in rows]

    def prompt(self, problem: Problem) -> Prompt:
        """The problem as a prompt in the configured format."""
        steps = self._settings.answer_format == "steps"
        return Prompt(
            prompt_id=problem.identity,
            content=steps_prompt(problem) if steps else expression_prompt(problem),
            columns={
                "numbers": list(problem.numbers),
                "target": problem.target,
                "answer_format": self._settings.answer_format,
            },
            level=f"CD-{len(problem.numbers)}",
        )

    def _play(self, rng: np.random.Generator) -> Problem | None:
        """One random game, or None where it left the whole positive numbers or the target range."""
        settings = self._settings
        draws = iter(rng.random(1 + 4 * max(settings.numbers)).tolist())

        def below(bound: int) -> int:
            return int(next(draws) * bound)

        count = self._counts.value_at(next(draws))
        given = tuple(1 + below(settings.largest) for _ in range(count))
        pool = list(given)
        steps: list[tuple[int, str, int, int]] = []
        while len(pool) > 1:
            first, second = pool.pop(below(len(pool))), pool.pop(below(len(pool)))
            left, right = max(first, second), min(first, second)
            operation = settings.operations[below(len(settings.operations))]
            result = _combine(left, operation, right)
            if result is None or result > 10 * settings.target_high:
                return None
            steps.append((left, operation, right, result))
            pool.append(result)
        if not settings.target_low <= pool[0] <= settings.target_high:
            return None
        return Problem(given, pool[0], tuple(steps))


def _check_together(settings: CountdownSettings) -> None:
    """Raises a `SettingError` where knobs that are each in range do not fit together."""
    if settings.target_low > settings.target_high:
        raise SettingError(
            f"'task.target_low' is {settings.target_low}, above 'task.target_high' "
            f"({settings.target_high}); swap them."
        )
    if not settings.operations or set(settings.operations) - set("+-*/"):
        raise SettingError(
            f"'task.operations' is {settings.operations!r}, but may hold only + - * and /, at "
            "least one of them."
        )


def _combine(left: int, operation: str, right: int) -> int | None:
    """The result for `left >= right`, or None where it is not a positive whole number."""
    if operation == "+":
        return left + right
    if operation == "-":
        return left - right or None
    if operation == "*":
        return left * right
    return left // right if left % right == 0 else None


def steps_prompt(problem: Problem) -> str:
    """`3 5 7>22` and a line break: the prompt that small models are trained on."""
    return " ".join(map(str, problem.numbers)) + f">{problem.target}\n"


def worked_steps(problem: Problem) -> str:
    """`5*3=15,15+7=22`: the gold solution, one step after another, larger operand first."""
    return ",".join(
        f"{left}{operation}{right}={result}" for left, operation, right, result in problem.steps
    )


def expression_prompt(problem: Problem) -> tuple[ChatMessage, ...]:
    """A chat prompt for instruction models, answered between `<answer>` tags."""
    return (
        ChatMessage(
            "user",
            f"Using the numbers {', '.join(map(str, problem.numbers))}, write an arithmetic "
            f"expression that equals {problem.target}. You may use +, -, *, / and parentheses, and "
            "each number at most once. Think step by step, then give the expression alone between "
            "<answer> and </answer>, for example <answer>(1 + 2) * 3</answer>.",
        ),
    )


def build_countdown(options: Mapping[str, Any], numbers: tuple[int, ...] = (3, 4)) -> Countdown:
    """The task from a recipe's options; `numbers` is the default of a named variant."""
    given = {"numbers": numbers, **options}
    return Countdown(parse_task_options(CountdownSettings, given))
