"""From a training batch to padded micro-batches.

Rows are padded on the right. Causal attention never looks right, so no attention mask is needed,
and what stands at a padded position cannot reach a real one. Mini-batches hold whole groups, dealt
in turn so that each gets its share of every source; micro-batches hold rows of similar length, cut
by a budget of padded tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows padded to one length.

    The model reads `token_ids`; its logits from position `first` on predict `targets`. All `(N, T)`
    tensors below share the layout of `targets`: column j stands for position `first + 1 + j`.

    Attributes:
        rows: The rows, in order.
        token_ids: `(N, L)` prompts and completions.
        first: The first position whose logits are needed.
        targets: `(N, T)` the tokens that the logits predict.
        mask: `(N, T)` bool, True where a token takes part in the loss.
        behavior_logps: `(N, T)`.
        proximal_logps: `(N, T)`; zero where not yet known.
        advantages: `(N,)`.
        temperatures: `(N,)`.
        is_current: `(N,)` bool.
    """

    rows: tuple[Row, ...]
    token_ids: Tensor
    first: int
    targets: Tensor
    mask: Tensor
    behavior_logps: Tensor
    proximal_logps: Tensor
    advantages: Tensor
    temperatures: Tensor
    is_current: Tensor

    def spans(self) -> Iterator[tuple[Row, slice]]:
        """Each row with the columns of `targets` that its completion stands in."""
        for row in self.rows:
            start = len(row.prompt) - 1 - self.first
            yield row, slice(start, start + len(row.completion))


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


def micro_batches(
    rows: Sequence[Row], token_budget: int, pad_token_id: int, device: torch.device
) -> list[MicroBatch]:
    """Cuts rows into padded micro-batches.

    Args:
        rows: In any order; they are sorted by length, longest first, so that running out of memory
            shows at once.
        token_budget: Padded tokens per micro-batch; a single longer row stands alone.
        pad_token_id: What padded positions hold.
        device: Where the tensors go.
    """
    ordered = sorted(rows, key=lambda row: (-row.length, -len(row.prompt)))
    batches: list[MicroBatch] = []
    start = 0
    while start < len(ordered):
        count = max(1, token_budget // ordered[start].length)
        batches.append(_pad(ordered[start : start + count], pad_token_id, device))
        start += count
    return batches


def _pad(rows: Sequence[Row], pad_token_id: int, device: torch.device) -> MicroBatch:
    longest = max(row.length for row in rows)
    first = min(len(row.prompt) for row in rows) - 1
    width = longest - first - 1
    tokens = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.bool_)
    behavior = np.zeros((len(rows), width), dtype=np.float32)
    proximal = np.zeros((len(rows), width), dtype=np.float32)
    for index, row in enumerate(rows):
        begin = len(row.prompt)
        tokens[index, :begin] = row.prompt
        tokens[index, begin : row.length] = row.completion
        span = slice(begin - 1 - first, row.length - 1 - first)
        mask[index, span] = row.loss_mask & row.is_learned
        behavior[index, span] = row.behavior_logps
        if row.proximal_logps is not None:
            proximal[index, span] = row.proximal_logps
    token_ids = torch.from_numpy(tokens).to(device)
    return MicroBatch(
        rows=tuple(rows),
        token_ids=token_ids,
        first=first,
        targets=token_ids[:, first + 1 :],
        mask=torch.from_numpy(mask).to(device),
        behavior_logps=torch.from_numpy(behavior).to(device),
        proximal_logps=torch.from_numpy(proximal).to(device),
        advantages=torch.tensor([row.advantage for row in rows], device=device),
        temperatures=torch.tensor([row.temperature for row in rows], device=device),
        is_current=torch.tensor([row.is_current for row in rows], device=device),
    )
