"""Decides which completions are sampled together."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from bapo.rollout.pictures import PictureInputs
from bapo.types import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One completion to sample: number `index` of prompt number `prompt`."""

    prompt: int
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """Prompts that run through the model together.

    Attributes:
        ids: `(N, P)`, padded on the left.
        pads: `(N,)` padding before each.
        shown: Their pictures; None where the model reads none.
    """

    ids: Tensor
    pads: Tensor
    shown: PictureInputs | None = None

    @property
    def starts(self) -> Tensor:
        """`(N,)` the position of the first token behind each prompt."""
        ends = self.ids.shape[1] - self.pads
        return ends if self.shown is None else ends + self.shown.shifts

    @property
    def positions(self) -> Tensor:
        """`(N, P)` the position of each token in its prompt; 0 in padding."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (places - self.pads[:, None]).clamp_(min=0)


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

    def take(
        self, budget: int, *, beside: int = 0, at_least: float = 0.0, alike: bool = False
    ) -> list[Row]:
        """The rows that begin now: whole groups, as many as fit.

        A group that is too large for the budget is split. Where no others are live, a single row
        is always taken.

        Args:
            budget: Cache positions, prompt and new tokens together, that all rows may fill.
            beside: Rows that are live already.
            at_least: Share of the room for rows that must be free; with less, none begins.
            alike: Whether only prompts of one length may begin together.

        Returns:
            The rows; those of one prompt stand together.
        """
        count = 0
        shortest = self._lengths[self._rows[0].prompt] if self._rows else 0
        for prompt, group in self._groups():
            # Lengths rise, so the newest prompt sets the width of all.
            if alike and self._lengths[prompt] > shortest:
                break
            most = budget // (self._lengths[prompt] + self._new_tokens)
            room = most - beside - count
            if not count and room < at_least * most:
                break
            if group > room:
                if not count and (group > most or not beside):
                    count = max(room, 0 if beside else 1)
                break
            count += group
        return [self._rows.popleft() for _ in range(count)]

    def _groups(self) -> Iterator[tuple[int, int]]:
        """The waiting prompts and how many rows of each wait."""
        for prompt, rows in groupby(self._rows, key=lambda row: row.prompt):
            yield prompt, sum(1 for _ in rows)


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
