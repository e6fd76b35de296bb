"""What the tasks share whose problems are made up and not read from data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from bapo.errors import DataError, SettingError
from bapo.tasks.splits import Split
from bapo.types import Prompt


class MadeUpTask(ABC):
    """Training and evaluation prompts of a task that makes up as many problems as are wanted.

    Args:
        train_size: Training problems; the setting of that name.
        widen: What a user can do where there are not so many, as it follows `lower it, or`.
    """

    def __init__(self, train_size: int, widen: str) -> None:
        self._train_size = train_size
        self._widen = widen

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name, for reports."""

    @abstractmethod
    def _different(self, split: Split, count: int) -> list[Prompt]:
        """The first `count` different problems of a split, or all there are."""

    def training_prompts(self) -> list[Prompt]:
        """`train_size` different training problems.

        Raises:
            DataError: The knobs do not leave so many.
        """
        prompts = self._different(Split.TRAINING, self._train_size)
        if len(prompts) < self._train_size:
            raise DataError(
                f"Only {len(prompts)} different training problems of '{self.name}' were found, but "
                f"'task.train_size' is {self._train_size}; lower it, or {self._widen}."
            )
        return prompts

    def evaluation_prompts(self, count: int) -> list[Prompt]:
        """The first `count` different held-out problems, fewer if there are not so many."""
        return self._different(Split.EVALUATION, count)


class Mixture:
    """Values of a setting, each with its share of the problems.

    Args:
        name: The setting, without `task.`; its shares are the setting `weights`.
        values: Different values.
        weights: A share for each; empty means equal shares.

    Raises:
        SettingError: The values are none or not different, or the shares do not fit them.
    """

    def __init__(self, name: str, values: Sequence[int], weights: Sequence[float]) -> None:
        check_different(name, values, "[1, 3]")
        if weights and (len(weights) != len(values) or not 0 < sum(weights) < math.inf):
            raise SettingError(
                f"'task.weights' is {list(weights)} for the values {list(values)} of "
                f"'task.{name}'; give one finite share for each, not all zero."
            )
        shares = np.array(weights or [1.0] * len(values))
        self._values = values
        self._edges: list[float] = np.cumsum(shares / shares.sum())[:-1].tolist()

    def value_at(self, place: float) -> int:
        """The value at a place in [0, 1), which a uniform draw makes one in its share of cases."""
        return self._values[sum(place >= edge for edge in self._edges)]


def check_different(name: str, values: Sequence[Any], example: str) -> None:
    """Makes sure that a setting lists different values, and at least one.

    Raises:
        SettingError: It does not.
    """
    if not values or len(set(values)) < len(values):
        raise SettingError(
            f"'task.{name}' is {list(values)}, but must be a list of different ones, such as "
            f"{example}."
        )


def check_worked(name: str, value: str) -> None:
    """Makes sure that worked examples are asked for in the one form that small models learn.

    Args:
        name: The setting of the form, without `task.`.
        value: Its value.

    Raises:
        SettingError: It is not `steps`.
    """
    if value != "steps":
        raise SettingError(
            f"'task.{name}' is '{value}', for which there are no worked examples; a cold start "
            "needs 'steps'."
        )
