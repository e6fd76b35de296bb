"""From a training batch to the rows of each optimizer update.

Mini-batches hold whole groups, dealt in turn so that each gets its share of every source.
"""

from dataclasses import dataclass

import numpy as np
import torch

from bapo.config import ObjectiveSettings
from bapo.objective import group_advantages
from bapo.types import (
    BatchEntry,
    FinishReason,
    FloatArray,
    ImageReference,
    IntArray,
    TrainBatch,
)


@dataclass(slots=True)
class Row:
    """One completion, ready for the learner.

    Attributes:
        prompt: `(P,)` token ids, P >= 1.
        completion: `(T,)` token ids.
        behavior_logps: `(T,)` under the weights that sampled it.
        loss_mask: `(T,)` True where the token takes part in the loss.
        advantage: Of the completion inside its group.
        temperature: At which it was sampled.
        is_current: Whether the weights at the start of the step sampled it, so that w = 1.
        images: The pictures that the prompt shows.
        is_learned: Whether it takes part in the loss; the bound counts it in any case.
        proximal_logps: `(T,)` under the weights at the start of the step; filled in by the learner.
        policy_logps: `(T,)` under later weights, where they were measured; for the bound only.
    """

    prompt: IntArray
    completion: IntArray
    behavior_logps: FloatArray
    loss_mask: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    advantage: float
    temperature: float
    is_current: bool
    images: tuple[ImageReference, ...] = ()
    is_learned: bool = True
    proximal_logps: FloatArray | None = None
    policy_logps: FloatArray | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)


def rows_of_entry(entry: BatchEntry, step: int, settings: ObjectiveSettings) -> list[Row]:
    """The rows of one group.

    Args:
        entry: A group and its source.
        step: The training step; a group sampled by weights of version `step - 1` is current.
        settings: How advantages are scaled, and whether truncated completions are learned from.
    """
    rollout = entry.group.rollout
    scores = torch.tensor([[verdict.score for verdict in entry.group.verdicts]])
    advantages = group_advantages(
        scores, scale=settings.scale_advantage, epsilon=settings.advantage_epsilon
    )[0].tolist()
    return [
        Row(
            prompt=rollout.prompt_token_ids,
            completion=completion.token_ids,
            behavior_logps=completion.behavior_logps,
            loss_mask=completion.loss_mask,
            advantage=advantage,
            temperature=rollout.temperature,
            is_current=rollout.policy_version == step - 1,
            images=rollout.prompt.images,
            is_learned=not settings.mask_truncated
            or completion.finish_reason is not FinishReason.LENGTH,
        )
        for completion, advantage in zip(rollout.completions, advantages, strict=True)
    ]


def mini_batches(batch: TrainBatch, updates: int, settings: ObjectiveSettings) -> list[list[Row]]:
    """The rows of each optimizer update: whole groups, dealt in turn.

    Args:
        batch: The training batch.
        updates: Optimizer updates wanted; with fewer groups than that there are fewer.
        settings: How advantages are scaled.
    """
    count = min(updates, len(batch.entries))
    return [
        [
            row
            for entry in batch.entries[start::count]
            for row in rows_of_entry(entry, batch.step, settings)
        ]
        for start in range(count)
    ]
