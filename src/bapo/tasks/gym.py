"""Any task of reasoning-gym by its name: `task: gym:tower_of_hanoi`.

The gym's own options stand beside the settings below. A question's text is what identifies a
problem: the same text is never on two sides, nor twice on one.

The answer is judged by the gym's scorer in `bapo.reward.verifiers.gym`: its fraction is the score,
and only full marks are correct.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from bapo.config import parse_task_options, setting
from bapo.errors import SettingError
from bapo.tasks.gym_problems import PREFIX, GymProblem, GymProblems, hashed
from bapo.tasks.made_up import MadeUpTask
from bapo.tasks.splits import Split
from bapo.types import ChatMessage, Prompt

_INSTRUCTION: Final = (
    "Think step by step, then give the final answer alone between <answer> and </answer>."
)


@dataclass(frozen=True, slots=True)
class GymSettings:
    """What any gym task can be told; the gym's own options stand beside these."""

    train_size: int = setting(1000, "training problems", low=1)
    seed: int = setting(0, "seed of the problems, apart from the run's seed", low=0)
    answer_format: str = setting(
        "tags",
        "tags: a chat prompt and <answer> tags; text: a plain prompt, and all of the completion "
        "is the answer",
        choices=["tags", "text"],
    )


class GymTask(MadeUpTask):
    """A task of reasoning-gym; see the module docstring.

    Args:
        dataset: The gym's name for it.
        settings: What any gym task can be told.
        options: The gym's own options for this one.

    Raises:
        SettingError: There is no such task, or one of its options is wrong.
    """

    verifier: str = "bapo.reward.verifiers.gym:verify"

    def __init__(self, dataset: str, settings: GymSettings, options: Mapping[str, Any]) -> None:
        self._dataset = dataset
        super().__init__(settings.train_size, "widen the task's settings")
        self._settings = settings
        self._options = dict(options)
        self._problems = GymProblems(
            dataset, options, settings.seed, self._problem, cold_start=False
        )

    @property
    def name(self) -> str:
        """`gym:` and the gym's name."""
        return PREFIX + self._dataset

    def _different(self, split: Split, count: int) -> list[Prompt]:
        return [problem.prompt for problem in self._problems.different(split, count)]

    def _problem(self, row: Mapping[str, Any]) -> GymProblem:
        question = str(row["question"]).strip()
        identity = " ".join(question.split())
        tags = self._settings.answer_format == "tags"
        content = (
            (ChatMessage("user", f"{question}\n\n{_INSTRUCTION}"),) if tags else f"{question}\n"
        )
        columns = {
            "gym_task": self._dataset,
            "gym_options": self._options,
            "gym_entry": row["entry"],
            "answer_format": self._settings.answer_format,
        }
        name = f"{self._dataset}-{hashed(identity)}"
        return GymProblem(identity, Prompt(name, content, columns, row["level"]))


def build_gym(dataset: str, options: Mapping[str, Any]) -> GymTask:
    """The gym task of a name, from a recipe's options.

    Raises:
        SettingError: As `GymTask`, or a setting is wrong.
    """
    given = dict(options)
    own = {one.name: given.pop(one.name) for one in fields(GymSettings) if one.name in given}
    for name, value in given.items():
        _check_json(name, value)
    return GymTask(dataset, parse_task_options(GymSettings, own), given)


def _check_json(name: str, value: Any) -> None:
    """YAML has values, such as dates, that JSON has not."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise SettingError(
            f"'task.{name}' is {value!r}, but must be a text, a number, true or false, or a list "
            "of them."
        ) from None
