"""A policy that is a table: how many answers are right is known for every prompt and version.

The weights are one number, how often the learner was called, and the table is read at the number
that the engine really holds and not at the version that it was asked for. An engine that samples
from weights gone stale would thus give other answers, or none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bapo.config import Recipe
from bapo.rollout import ScoreRow
from bapo.training import Loop, UpdateReport
from bapo.training.batching import Row
from bapo.types import Completion, Group, Prompt, Rollout, TrainBatch, Verdict
from tests.builders import make_completion, make_prompt, make_verdicts
from tests.listed_policy import ListedEngine, listed_loop, listed_recipe

OBJECTIVE_KEYS = (
    "importance_weight_mean",
    "importance_weight_truncated_share",
    "ratio_clipped_share",
    "entropy",
    "kl_behavior",
)
PROBE = [ScoreRow(np.array([3], np.int32), np.array([4, 5], np.int32))]


@dataclass(frozen=True)
class Asked:
    """One call of `TableEngine.sample`."""

    prompt_ids: tuple[str, ...]
    version: int
    step: int
    seeds: tuple[int, ...]


class CountingModule(torch.nn.Module):
    """Weights that are one number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.count = torch.nn.Parameter(torch.tensor([value]))


class CountingLearner:
    """Counts its calls, in place as an optimizer changes weights, and keeps the batches."""

    def __init__(self) -> None:
        self.module = CountingModule()
        self.batches: list[TrainBatch] = []

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.module.named_parameters()}

    def update(self, batch: TrainBatch, *, cap_scale: float = 1.0) -> UpdateReport:
        self.batches.append(batch)
        with torch.no_grad():
            self.module.count.add_(1)
        updates = 1 if batch.entries else 0
        return UpdateReport(updates=updates, objective=dict.fromkeys(OBJECTIVE_KEYS))

    def logps(self, rows: Sequence[Row]) -> list[np.ndarray]:
        return [np.full(len(row.completion), -self.module.count.item()) for row in rows]


class TableEngine(ListedEngine):
    """Answers from the table.

    Args:
        table: For each prompt id and count, a letter a completion, as in `make_verdicts`.
    """

    def __init__(self, table: Mapping[tuple[str, int], str]) -> None:
        self.table = table
        self.asked: list[Asked] = []
        self._module = CountingModule(-1.0)
        super().__init__(self._module)

    def answers(
        self, prompts: Sequence[Prompt], version: int, group_size: int, step: int, seeds: list[int]
    ) -> list[list[Completion]]:
        names = tuple(prompt.prompt_id for prompt in prompts)
        self.asked.append(Asked(names, version, step, tuple(seeds)))
        count = int(self._count(version))
        patterns = [self.table[name, count] for name in names]
        assert all(len(pattern) == group_size for pattern in patterns)
        return [[make_completion([5, 2], text=letter) for letter in each] for each in patterns]

    def score(self, rows: Sequence[Any], *, version: int, temperature: float = 1.0) -> list[Any]:
        count = self._count(version)
        return [np.full(len(completion), -count) for _, completion, _ in rows]

    def _count(self, version: int) -> float:
        with self.weights.using(version):
            return self._module.count.item()


def read_letters(rollouts: Sequence[Rollout]) -> list[Group]:
    """The verifier: a completion of the table policy is its own verdict."""

    def verdicts(rollout: Rollout) -> tuple[Verdict, ...]:
        return make_verdicts("".join(one.text for one in rollout.completions))

    return [Group(rollout, verdicts(rollout)) for rollout in rollouts]


@dataclass
class ScriptedStream:
    """Draws prompts in a given order, and never more than there are."""

    order: list[str]
    begun: int = 0
    epochs: float = 0.0
    drawn: list[tuple[str, ...]] = field(default_factory=list)

    def begin_step(self) -> None:
        self.begun += 1

    def draw(self, count: int) -> list[Prompt]:
        names, self.order = self.order[:count], self.order[count:]
        self.drawn.append(tuple(names))
        return [make_prompt(name) for name in names]


def pattern(letters: str, group_size: int = 4) -> str:
    """A digit is a number of right answers; anything longer is a pattern already."""
    if len(letters) > 1:
        return letters
    return "1" * int(letters) + "0" * (group_size - int(letters))


def table_recipe(
    *, steps: int, algorithm: str = "bapo", seed: int = 3, **sections: Mapping[str, Any]
) -> Recipe:
    """A recipe of groups of four."""
    plain = {"rollout": {"group_size": 4}, **sections}
    return listed_recipe(algorithm=algorithm, seed=seed, steps=steps, **plain)


def table_loop(recipe: Recipe, table: Mapping[tuple[str, int], str], draws: Iterable[str]) -> Loop:
    """The real loop, adaptation and policy versions around a table policy."""
    return listed_loop(
        recipe,
        engine=TableEngine(table),
        learner=CountingLearner(),
        stream=ScriptedStream(list(draws)),
        verify=read_letters,
        probe=PROBE,
        tolerance=1e-6,
    )
