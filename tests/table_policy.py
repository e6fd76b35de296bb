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

from bapo.adaptation import Adaptation
from bapo.config import Recipe, resolve_recipe
from bapo.rollout import ScoreRow
from bapo.rollout.engine import OnRollout, seeds_of
from bapo.rollout.versions import VersionedWeights
from bapo.training import Loop, UpdateReport
from bapo.training.batching import Row
from bapo.training.policy_sync import EnginePolicies
from bapo.types import Group, Prompt, Rollout, TrainBatch, Verdict
from tests.builders import make_completion, make_prompt, make_rollout, make_verdicts

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


class TableEngine:
    """Answers from the table.

    Args:
        table: For each prompt id and count, a letter a completion, as in `make_verdicts`.
    """

    def __init__(self, table: Mapping[tuple[str, int], str]) -> None:
        self.table = table
        self.asked: list[Asked] = []
        self._module = CountingModule(-1.0)
        self._weights = VersionedWeights(self._module)

    @property
    def versions(self) -> tuple[int, ...]:
        return self._weights.versions

    def publish(self, version: int, weights: Mapping[str, Tensor], *, share: bool = False) -> None:
        self._weights.publish(version, weights, share=share)

    def forget(self, version: int) -> None:
        self._weights.forget(version)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        version: int,
        group_size: int,
        step: int,
        seed: int | Sequence[int],
        temperature: float,
        on_rollout: OnRollout | None = None,
    ) -> list[Rollout]:
        names = tuple(prompt.prompt_id for prompt in prompts)
        self.asked.append(Asked(names, version, step, tuple(seeds_of(seed, len(prompts)))))
        with self._weights.using(version):
            count = int(self._module.count.item())
        patterns = [self.table[name, count] for name in names]
        assert all(len(pattern) == group_size for pattern in patterns)
        rollouts = [
            make_rollout(
                prompt,
                version=version,
                step=step,
                temperature=temperature,
                completions=[make_completion([5, 2], text=letter) for letter in pattern],
            )
            for prompt, pattern in zip(prompts, patterns, strict=True)
        ]
        for rollout in rollouts if on_rollout else ():
            on_rollout(rollout)
        return rollouts

    def score(self, rows: Sequence[Any], *, version: int, temperature: float = 1.0) -> list[Any]:
        with self._weights.using(version):
            count = self._module.count.item()
        return [np.full(len(completion), -count) for _, completion, _ in rows]


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
    return resolve_recipe(
        {
            "algorithm": algorithm,
            "model": "none",
            "task": "none",
            "seed": seed,
            "steps": steps,
            "rollout": {"group_size": 4},
            **sections,
        }
    )


def table_loop(recipe: Recipe, table: Mapping[tuple[str, int], str], draws: Iterable[str]) -> Loop:
    """The real loop, adaptation and policy versions around a table policy."""
    engine, learner = TableEngine(table), CountingLearner()
    policies = EnginePolicies(
        engine,
        learner,  # type: ignore[arg-type]
        sync_every=recipe.adaptation.sync_every,
        probe=PROBE,
        tolerance=1e-6,
    )
    return Loop(
        recipe=recipe,
        stream=ScriptedStream(list(draws)),  # type: ignore[arg-type]
        policies=policies,
        engine=engine,
        verify=read_letters,
        adaptation=Adaptation(
            recipe.adaptation, batch_groups=recipe.training.batch_groups, seed=recipe.seed
        ),
        learner=learner,
    )
