"""Decides which completions are sampled together."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from bapo.types import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to sample: number `index` of prompt number `prompt`."""

    prompt: int
    index: int


class WaitingRows:
    """The completions that no batch has taken yet.

    Prompts of like length stand together, shortest first, so that little is padded.
    """

    def __init__(self, lengths: Sequence[int], group_size: int, new_tokens: int) -> None:
        """Queues all completions of all prompts.

        Args:
            lengths: Tokens of each prompt.
            group_size: Completions per prompt, G.
            new_tokens: Tokens sampled at most per completion.
        """
        self._lengths = lengths
        self._new_tokens = new_tokens
        self._rows = deque(
            Row(prompt, index)
            for prompt in sorted(range(len(lengths)), key=lambda number: lengths[number])
            for index in range(group_size)
        )

    def __bool__(self) -> bool:
        return bool(self._rows)

    @property
    def next_need(self) -> int:
        """The positions that the next group needs; there is one."""
        group = sum(1 for _ in self._next_group())
        return group * (self._lengths[self._rows[0].prompt] + self._new_tokens)

    def take(self, budget: int) -> list[Row]:
        """The next batch: whole groups, as many as fit.

        A group that is too large for the budget is split, and a single row is always taken.

        Args:
            budget: Cache positions, prompt and new tokens together, that the batch may fill.

        Returns:
            Its rows; those of one prompt stand together.
        """
        taken: list[Row] = []
        while self._rows:
            prompt = self._rows[0].prompt
            # Lengths rise, so the newest prompt sets the width of the whole batch.
            room = budget // (self._lengths[prompt] + self._new_tokens) - len(taken)
            group = sum(1 for _ in self._next_group())
            if taken and group > room:
                break
            count = max(1, min(room, group))
            taken += [self._rows.popleft() for _ in range(count)]
            if count < group:
                break
        return taken

    def _next_group(self) -> Iterator[Row]:
        """The waiting rows of the next prompt."""
        prompt = self._rows[0].prompt
        return takewhile(lambda row: row.prompt == prompt, self._rows)


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
