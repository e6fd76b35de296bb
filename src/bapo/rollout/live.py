"""The rows that are sampled at one time: they leave as they end, and others join them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bapo.rollout.batching import Row
from bapo.rollout.randomness import BLOCK, uniform_block
from bapo.types import FloatArray, IntArray


class RowStore(Protocol):
    """What the rows keep in the model's cache."""

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """What a row came to.

    Attributes:
        row: Which.
        token_ids: `(T,)`.
        logps: `(T,)` of its tokens.
        stopped: Whether it ended by itself, and not at the limit.
    """

    row: Row
    token_ids: IntArray
    logps: FloatArray
    stopped: bool


class LiveBatch:
    """Rows that are sampled together, each at a token of its own.

    An ended row that has not been dropped yet goes on being sampled, and nobody reads what it gets.
    What a row was given is kept in memory of the processor, and only the logits and the store on
    the model's device.
    """

    def __init__(self, store: RowStore, new_tokens: int) -> None:
        """Makes a batch without rows.

        Args:
            store: The cache of the rows; whoever adds rows adds them there.
            new_tokens: Tokens sampled at most per completion.
        """
        self.store, self.logits = store, torch.empty(0)
        self._new_tokens = new_tokens
        self._rows: list[Row] = []
        self._keys: list[int] = []
        self._starts = np.empty(0, dtype=np.int64)
        self._counts = np.empty(0, dtype=np.int64)
        self._alive = np.empty(0, dtype=np.bool_)
        self._tokens = np.empty((0, new_tokens), dtype=np.int32)
        self._logps = np.empty((0, new_tokens), dtype=np.float32)
        self._uniforms = np.empty((0, BLOCK))

    @property
    def size(self) -> int:
        """Rows, ended ones that were not dropped among them."""
        return len(self._rows)

    @property
    def live(self) -> int:
        """Rows that have not ended."""
        return int(np.count_nonzero(self._alive))

    @property
    def positions(self) -> Tensor:
        """`(R,)` the position of the newest token of every row."""
        return torch.from_numpy(self._starts + self._counts - 1).to(self.logits.device)

    def add(
        self, rows: Sequence[Row], keys: Sequence[int], logits: Tensor, starts: Sequence[int]
    ) -> None:
        """Adds rows that have no token yet.

        Args:
            rows: What is sampled.
            keys: The random key of each.
            logits: `(R, V)` after each row's prompt.
            starts: The position of each row's first token.
        """
        more = len(rows)
        self.logits = torch.cat((self.logits, logits)) if self._rows else logits
        self._rows += rows
        self._keys += keys
        self._starts = np.concatenate((self._starts, np.asarray(starts, dtype=np.int64)))
        self._counts = np.concatenate((self._counts, np.zeros(more, dtype=np.int64)))
        self._alive = np.concatenate((self._alive, np.ones(more, dtype=np.bool_)))
        self._tokens = _longer(self._tokens, more)
        self._logps = _longer(self._logps, more)
        self._uniforms = _longer(self._uniforms, more)

    def uniforms(self) -> Tensor:
        """`(R,)` the random numbers of the next token of every row."""
        blocks, places = np.divmod(self._counts, BLOCK)
        begin = np.flatnonzero((places == 0) & self._alive)
        for block in np.unique(blocks[begin]):
            rows = begin[blocks[begin] == block]
            keys = [self._keys[row] for row in rows.tolist()]
            self._uniforms[rows] = uniform_block(keys, int(block))
        drawn = self._uniforms[np.arange(self.size), places]
        return torch.from_numpy(drawn).to(self.logits.device)

    def record(self, tokens: npt.NDArray[np.int64], logps: FloatArray) -> None:
        """Takes the next token of every row, `(R,)`, and its log-probability."""
        rows = np.arange(self.size)
        self._tokens[rows, self._counts] = tokens
        self._logps[rows, self._counts] = logps
        self._counts += 1

    @property
    def newest(self) -> IntArray:
        """`(R,)` the newest token of every row."""
        return self._tokens[np.arange(self.size), self._counts - 1]

    def tokens_of(self, row: int) -> IntArray:
        """The tokens of a row so far."""
        return self._tokens[row, : self._counts[row]]

    def is_live(self, row: int) -> bool:
        """Whether a row has not ended."""
        return bool(self._alive[row])

    def end(self, stopped: npt.NDArray[np.bool_]) -> list[Ended]:
        """Ends live rows: those marked, and those at the limit."""
        ending = self._alive & (stopped | (self._counts == self._new_tokens))
        self._alive &= ~ending
        return [
            Ended(
                self._rows[row],
                self.tokens_of(row).copy(),
                self._logps[row, : self._counts[row]].copy(),
                bool(stopped[row]),
            )
            for row in np.flatnonzero(ending).tolist()
        ]

    def needs_drop(self, share: float) -> bool:
        """Whether ended rows are to be dropped now.

        Args:
            share: The share of live rows below which they are. A row without room for another
                token is dropped whatever the share.
        """
        live = self.live
        if live == self.size:
            return False
        return (
            live == 0 or live < share * self.size or bool((self._counts == self._new_tokens).any())
        )

    def drop_ended(self, tokens: Tensor) -> Tensor:
        """Moves live rows into the places of ended ones, and drops the rest.

        Only as many rows are copied as have ended at the front, not the whole cache.

        Returns:
            The tokens just drawn, `(live,)`, in the new order.
        """
        live = self.live
        targets = np.flatnonzero(~self._alive[:live])
        sources = live + np.flatnonzero(self._alive[live:])
        for states in (self._starts, self._counts, self._tokens, self._logps, self._uniforms):
            states[targets] = states[sources]
        for target, source in zip(targets.tolist(), sources.tolist(), strict=True):
            self._rows[target], self._keys[target] = self._rows[source], self._keys[source]
        del self._rows[live:], self._keys[live:]
        self._starts, self._counts = self._starts[:live], self._counts[:live]
        self._tokens, self._logps = self._tokens[:live], self._logps[:live]
        self._uniforms, self._alive = self._uniforms[:live], np.ones(live, dtype=np.bool_)
        moved = torch.from_numpy(np.stack((targets, sources))).to(tokens.device)
        self.store.keep(live, moved[0], moved[1])
        tokens[moved[0]] = tokens[moved[1]]
        return tokens[:live]


def _longer(states: npt.NDArray[np.generic], rows: int) -> npt.NDArray:
    """`(R, ...)` with room for more rows behind; what stands there is not set."""
    return np.concatenate((states, np.empty((rows, *states.shape[1:]), dtype=states.dtype)))
