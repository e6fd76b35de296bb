"""What a task is: prompts to train on, prompts to be measured on, and how an answer is verified."""

from collections.abc import Sequence
from typing import Protocol

from bapo.types import Prompt


class Task(Protocol):
    """Prompts and a verifier.

    Training and evaluation prompts share no problem. Both sequences are the same at every call, for
    the same settings, on every machine.
    """

    @property
    def name(self) -> str:
        """The task's name, for reports."""
        ...

    @property
    def verifier(self) -> str:
        """The verifier as `module:function`."""
        ...

    def training_prompts(self) -> Sequence[Prompt]:
        """All prompts to train on, in a fixed order, each `prompt_id` once."""
        ...

    def evaluation_prompts(self, count: int) -> Sequence[Prompt]:
        """The first `count` held-out prompts, in a fixed order; fewer if there are not so many."""
        ...


class WorkedTask(Task, Protocol):
    """A task that can show how a problem is solved, for a supervised cold start."""

    @property
    def alphabet(self) -> Sequence[str]:
        """Every symbol that prompts and worked examples are written in: characters, or words.

        Each becomes one token of the model that is made.
        """
        ...

    def worked_example(self, index: int) -> tuple[str, str]:
        """Prompt text and gold completion of example `index`, from problems kept apart for it."""
        ...
