"""What stands around a policy that can be listed: engine, recipe and loop without a model's files.

`tests.table_policy` has one whose verdicts are written down, `tests.enumerable` ones whose every
answer is summed over.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bapo.adaptation import Adaptation
from bapo.config import Recipe, resolve_recipe
from bapo.rollout.engine import OnRollout, seeds_of
from bapo.rollout.versions import VersionedWeights
from bapo.training import Loop
from bapo.training.policy_sync import EnginePolicies
from bapo.types import Completion, Prompt, Rollout
from tests.builders import make_rollout


class ListedEngine:
    """An engine whose answers are read off the weights that it really holds.

    Args:
        module: Holds the weights of the version in use.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.weights = VersionedWeights(module)

    @property
    def versions(self) -> tuple[int, ...]:
        return self.weights.versions

    def publish(self, version: int, weights: Mapping[str, Tensor], *, share: bool = False) -> None:
        self.weights.publish(version, weights, share=share)

    def forget(self, version: int) -> None:
        self.weights.forget(version)

    def answers(
        self, prompts: Sequence[Prompt], version: int, group_size: int, step: int, seeds: list[int]
    ) -> list[list[Completion]]:
        """The completions of each prompt."""
        raise NotImplementedError

    def prompt_tokens(self, prompt: Prompt) -> list[int]:
        """What the prompt is read as."""
        return [3, 4]

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
        seeds = list(seeds_of(seed, len(prompts)))
        groups = self.answers(prompts, version, group_size, step, seeds)
        rollouts = [
            make_rollout(
                prompt,
                version=version,
                step=step,
                prompt_token_ids=self.prompt_tokens(prompt),
                temperature=temperature,
                completions=group,
            )
            for prompt, group in zip(prompts, groups, strict=True)
        ]
        for rollout in rollouts if on_rollout else ():
            on_rollout(rollout)
        return rollouts


def listed_recipe(*, algorithm: str, seed: int, steps: int, **sections: Any) -> Recipe:
    """A recipe that names neither model nor task."""
    plain = {"algorithm": algorithm, "model": "none", "task": "none", "seed": seed, "steps": steps}
    return resolve_recipe({**plain, **sections})


def listed_loop(
    recipe: Recipe,
    *,
    engine: Any,
    learner: Any,
    stream: Any,
    verify: Any,
    probe: Any,
    tolerance: float,
) -> Loop:
    """The real loop, adaptation and policy versions around a policy."""
    groups = recipe.training.batch_groups
    return Loop(
        recipe=recipe,
        stream=stream,
        policies=EnginePolicies(
            engine,
            learner,
            sync_every=recipe.adaptation.sync_every,
            probe=probe,
            tolerance=tolerance,
        ),
        engine=engine,
        verify=verify,
        adaptation=Adaptation(recipe.adaptation, batch_groups=groups, seed=recipe.seed),
        learner=learner,
    )
