"""The order in which training prompts are drawn, and how they are known again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bapo.errors import DataError
from bapo.types import Prompt

_STREAM = int.from_bytes(b"prompts", "big")


class PromptStream:
    """Draws prompts epoch by epoch, each epoch in an order of its own.

    Every prompt is drawn once an epoch. A prompt that comes up twice in one step, as it can where
    two epochs meet, waits for the next step, so that no draw repeats a prompt and none is lost.

    Determinism: the order of an epoch derives from (seed, epoch). A checkpoint keeps the position
    and the prompts that wait.
    """

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, smallest: int) -> None:
        """Starts before the first prompt.

        Args:
            prompts: All training prompts, each id once.
            seed: The run's seed, at least 0.
            smallest: Prompts that one step needs at least.

        Raises:
            DataError: There are fewer prompts than one step needs.
        """
        if len(prompts) < smallest:
            raise DataError(
                f"The task has {len(prompts)} training prompts, but a step draws {smallest}; add "
                "prompts or lower 'training.batch_groups'."
            )
        self._prompts = prompts
        self._seed = seed
        self._drawn = 0
        self._waiting: list[int] = []
        self._taken: set[int] = set()
        self._epoch = -1
        self._order: list[int] = []

    @property
    def epochs(self) -> float:
        """Passes over the training prompts so far."""
        return self._drawn / len(self._prompts)

    def begin_step(self) -> None:
        """Forgets which prompts the last step has drawn."""
        self._taken.clear()

    def draw(self, count: int) -> list[Prompt]:
        """The next prompts, none of them drawn before in this step.

        Args:
            count: How many; fewer come back where the step has had all prompts there are.
        """
        chosen: list[int] = []
        for index in list(self._waiting):
            if len(chosen) < count and index not in self._taken:
                self._waiting.remove(index)
                self._taken.add(index)
                chosen.append(index)
        while len(chosen) < count and len(self._taken) < len(self._prompts):
            index = self._next_index()
            if index in self._taken:
                self._waiting.append(index)
            else:
                self._taken.add(index)
                chosen.append(index)
        return [self._prompts[index] for index in chosen]

    def state_dict(self) -> dict[str, Any]:
        """Position and waiting prompts, between steps."""
        return {"drawn": self._drawn, "waiting": list(self._waiting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken, with the same prompts and seed.

        Raises:
            ValueError: The state names places that the data do not have.
        """
        self._drawn = int(state["drawn"])
        self._waiting = [int(index) for index in state["waiting"]]
        if min([self._drawn, *self._waiting]) < 0 or max(self._waiting, default=0) >= len(
            self._prompts
        ):
            raise ValueError(f"drawn {self._drawn}, waiting {self._waiting}")
        self._taken.clear()
        self._epoch = -1

    def _next_index(self) -> int:
        epoch, position = divmod(self._drawn, len(self._prompts))
        if epoch != self._epoch:
            sequence = np.random.SeedSequence([self._seed, _STREAM, epoch])
            generator = np.random.Generator(np.random.Philox(sequence))
            self._order = generator.permutation(len(self._prompts)).tolist()
            self._epoch = epoch
        self._drawn += 1
        return self._order[position]


def fingerprint(training: Sequence[Prompt], held_out: Sequence[Prompt]) -> str:
    """A hash of all prompts in order: their places in it are what the prompt stream keeps."""
    digest = hashlib.blake2b(digest_size=16)
    for prompts in (training, held_out):
        digest.update(f"{len(prompts)}\n".encode())
        for prompt in prompts:
            line = json.dumps(asdict(prompt), sort_keys=True, default=str)
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()
