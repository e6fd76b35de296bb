"""Decides which completions are sampled together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bapo.types import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to sample: number `index` of prompt number `prompt`."""

    prompt: int
    index: int


def plan_batches(
    lengths: Sequence[int], group_size: int, new_tokens: int, token_budget: int
) -> Iterator[list[Row]]:
    """Splits all completions of all prompts into batches that fit the budget.

    Prompts of like length stand together, shortest first, so that little is padded. A group is
    split where it does not fit whole; a single row is always allowed.

    Args:
        lengths: Tokens of each prompt.
        group_size: Completions per prompt, G.
        new_tokens: Tokens sampled at most per completion.
        token_budget: Cache positions, prompt and new tokens together, in one batch.

    Yields:
        The rows of one batch; those of one prompt stand together.
    """
    batch: list[Row] = []
    for prompt in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        # Lengths rise, so the newest prompt sets the width of the whole batch.
        room = max(1, token_budget // (lengths[prompt] + new_tokens))
        for index in range(group_size):
            if len(batch) >= room:
                yield batch
                batch = []
            batch.append(Row(prompt, index))
    if batch:
        yield batch


def pad_left(rows: Sequence[IntArray], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts of several lengths as one `(N, P)` tensor, and the `(N,)` padding before each."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[width - len(row) :] = torch.from_numpy(row)
    pads = torch.tensor([width - len(row) for row in rows])
    return ids.to(device), pads.to(device)


def pad_right(rows: Sequence[IntArray], pad_id: int, device: torch.device) -> Tensor:
    """Token rows of several lengths as one `(N, T)` tensor."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.from_numpy(row)
    return ids.to(device)
