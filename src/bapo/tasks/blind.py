"""The blind baseline: a task whose pictures are blanked, and what guessing is worth on it.

A policy that scores above chance without seeing has found the answer somewhere else, in the text or
in the way the problems were made, and what it learned from pictures cannot be told from that.
Chance is the share of problems that a constant answer gets right, the best one for each text: what
a policy can come to that knows how the problems are made and sees nothing.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from bapo.errors import SettingError
from bapo.tasks.base import Task
from bapo.types import Prompt

_ANSWER = "answer"


class BlindTask:
    """Another task, with a white picture of the same size in the place of each of its pictures.

    Names, texts, answers and the sides of the split are the other task's.

    Args:
        task: The other task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self.name = f"{task.name}, blind"
        self.verifier = task.verifier
        self.reports: Any = getattr(task, "reports", None)

    def training_prompts(self) -> Sequence[Prompt]:
        """The other task's, blanked."""
        return self._blanked(self._task.training_prompts())

    def evaluation_prompts(self, count: int) -> Sequence[Prompt]:
        """The other task's, blanked."""
        return self._blanked(self._task.evaluation_prompts(count))

    def _blanked(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        if not any(one.images for one in prompts):
            raise SettingError(
                f"'task.blank_images' is true, but the task '{self._task.name}' shows no pictures; "
                "leave it out."
            )
        return [
            replace(one, images=tuple(replace(image, blank=True) for image in one.images))
            for one in prompts
        ]


def chance(prompts: Sequence[Prompt]) -> float | None:
    """The share of prompts that the best constant answer for each text gets right.

    Args:
        prompts: With their answers in the column `answer`.

    Returns:
        In [0, 1]; None where a prompt has no such column.
    """
    counts: dict[Any, Counter[str]] = {}
    for prompt in prompts:
        if _ANSWER not in prompt.columns:
            return None
        answer = json.dumps(prompt.columns[_ANSWER], sort_keys=True)
        counts.setdefault(cast("Any", prompt.content), Counter())[answer] += 1
    best = sum(max(counter.values()) for counter in counts.values())
    return best / len(prompts) if prompts else None
