"""The rows of one batch while they are sampled."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bapo.rollout.batching import Row
from bapo.rollout.randomness import BLOCK, uniform_block


class RowStore(Protocol):
    """What a batch keeps in the model's cache, one entry per row."""

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        ...


class LiveBatch:
    """Rows that began together, and so have the same number of tokens for as long as they live.

    Row state (`starts`, `alive`, `logits`, the store) shrinks as ended rows are dropped; results
    (`tokens`, `logps`, `lengths`, `stopped`) are kept per slot, the row's place at the start. An
    ended row that has not been dropped yet goes on being sampled, and what it gets lies behind its
    length, where nobody reads it.
    """

    def __init__(
        self,
        *,
        rows: Sequence[Row],
        keys: Sequence[int],
        store: RowStore,
        logits: Tensor,
        starts: Tensor,
        width: int,
        new_tokens: int,
    ) -> None:
        """Makes the batch from its prompts' forward pass.

        Args:
            rows: What is sampled.
            keys: The random key of each row.
            store: The cache of the rows.
            logits: `(R, V)` after each row's prompt.
            starts: `(R,)` the position of each row's first token.
            width: Tokens of the padded prompts.
            new_tokens: Tokens sampled at most per completion.
        """
        count, device = len(rows), logits.device
        self.rows, self.store, self.logits = tuple(rows), store, logits
        self._starts, self.width, self.new_tokens = starts, width, new_tokens
        self._keys = keys
        self._uniforms = torch.empty(0)
        self._slots = torch.arange(count, device=device)
        self._slot_numbers = np.arange(count)
        self.alive = np.ones(count, dtype=np.bool_)
        self.live = self.size = count
        self.tokens = torch.zeros((count, new_tokens), dtype=torch.long, device=device)
        self.logps = torch.zeros((count, new_tokens), dtype=torch.float32, device=device)
        self.lengths = np.full(count, new_tokens)
        self.stopped = np.zeros(count, dtype=np.bool_)
        self.count = 0

    @property
    def positions(self) -> Tensor:
        """`(R,)` the position of the newest token of every row."""
        return self._starts + (self.count - 1)

    def uniforms(self) -> Tensor:
        """`(R,)` the random numbers of the next token of every row."""
        if self.count % BLOCK == 0:
            keys = [self._keys[slot] for slot in self._slot_numbers.tolist()]
            block = uniform_block(keys, self.count // BLOCK)
            self._uniforms = torch.from_numpy(block).to(self.logits.device)
        return self._uniforms[:, self.count % BLOCK].contiguous()

    def record(self, tokens: Tensor, logps: Tensor) -> None:
        """Takes the next token of every row, `(R,)`, and its log-probability."""
        self.tokens[self._slots, self.count] = tokens
        self.logps[self._slots, self.count] = logps
        self.count += 1

    def tokens_of(self, row: int) -> npt.NDArray[np.int64]:
        """The tokens of a row so far."""
        return self.tokens[self._slots[row], : self.count].numpy(force=True)

    def end(self, ended: npt.NDArray[np.bool_]) -> list[int]:
        """Ends the live ones among the rows marked, and all of them at the limit.

        Returns:
            The slots of the rows that ended.
        """
        ended = ended & self.alive
        slots = self._slot_numbers[ended]
        self.lengths[slots] = self.count
        self.stopped[slots] = True
        if self.count == self.new_tokens:
            slots = self._slot_numbers[self.alive]
            self.alive[:] = False
        elif len(slots):
            self.alive &= ~ended
        self.live -= len(slots)
        return slots.tolist()

    def drop_ended(self, tokens: Tensor) -> Tensor:
        """Moves live rows into the places of ended ones, and drops the rest.

        Only as many rows are copied as have ended at the front, not the whole cache.

        Returns:
            The tokens just drawn, `(live,)`, in the new order.
        """
        live = self.live
        order = np.arange(live)
        targets = np.flatnonzero(~self.alive[:live])
        sources = live + np.flatnonzero(self.alive[live:])
        order[targets] = sources
        index = torch.from_numpy(order).to(tokens.device)
        self.store.keep(live, index.new_tensor(targets), index.new_tensor(sources))
        self._slots, self._slot_numbers = self._slots[index], self._slot_numbers[order]
        self._starts, self._uniforms = self._starts[index], self._uniforms[index]
        self.alive, self.size = np.ones(live, dtype=np.bool_), live
        return tokens[index]
