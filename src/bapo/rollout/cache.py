"""The key-value cache of a model's own module: prompts once, rows in place.

A transformers cache grows by concatenation, which copies everything at every token. This one is
allocated when rows begin, is written in place, and hands out views. Rows that have ended are
dropped by moving live rows into their places. Rows that join get their prompts right before the
column that all rows write next, and a mask hides from each what stands before its own prompt. No
row sees more columns than its prompt and its tokens take: where the last column is written, those
that no row sees any more have made room, and the others are moved to the front.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class RowCacheLayer(CacheLayerMixin):
    """Keys and values of one layer.

    In a cache of prompts the first `update` takes their keys and values, `(N, H, P, D)`, as they
    are. In a cache of rows `join` adds rows, every `update` writes one position of all of them, and
    `keep` moves and drops rows. All layers hold full attention's positions; a sliding window is
    the mask's business.

    Attributes:
        rows: How many rows are held.
        start: The first column that any row sees.
        end: The column that is written next.
    """

    is_compileable = False
    is_sliding = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows = self.start = self.end = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes the prompts' keys and values."""
        self.keys, self.values = key_states, value_states
        self.rows, self.end = key_states.shape[0], key_states.shape[2]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds positions and returns views of all positions so far.

        Args:
            key_states: `(R, H, T, D)` keys of the rows.
            value_states: `(R, H, T, D')` values of the rows.
            args: Not used; transformers' interface.
            kwargs: Not used; transformers' interface.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None
        assert self.values is not None
        new = key_states.shape[2]
        self.end += new
        seen = slice(self.start, self.end)
        keys, values = self.keys[: self.rows, :, seen], self.values[: self.rows, :, seen]
        keys[:, :, -new:] = key_states
        values[:, :, -new:] = value_states
        return keys, values

    def join(
        self, prompts: "RowCacheLayer", prompt_of_row: Tensor, length: int, capacity: int
    ) -> None:
        """Adds rows that continue prompts, and moves all rows to another column.

        Args:
            prompts: Taken over; emptied here.
            prompt_of_row: `(J,)` for each new row, the prompt that it continues.
            length: Columns before the one that is written next; what no row sees is dropped.
            capacity: Columns for which there is to be room.
        """
        if not prompts.is_initialized:  # layers that share another layer's keys are never updated
            return
        assert prompts.keys is not None
        assert prompts.values is not None
        self.keys = self._joined(self.keys, prompts.keys, prompt_of_row, length, capacity)
        prompts.keys = None
        self.values = self._joined(self.values, prompts.values, prompt_of_row, length, capacity)
        prompts.values = None
        self.rows, self.start, self.end = len(self.keys), 0, length
        self.is_initialized = True

    def _joined(
        self, own: Tensor | None, prompts: Tensor, of_row: Tensor, length: int, capacity: int
    ) -> Tensor:
        _, heads, width, size = prompts.shape
        states = prompts.new_empty((self.rows + len(of_row), heads, capacity, size))
        # What the mask hides must be finite all the same.
        if own is not None and self.rows:
            seen = self.end - self.start
            states[: self.rows, :, : length - seen] = 0
            held = own[: self.rows, :, self.start : self.end]
            states[: self.rows, :, length - seen : length] = held
        states[self.rows :, :, : length - width] = 0
        states[self.rows :, :, length - width : length] = prompts.index_select(0, of_row)
        return states

    def to_front(self) -> None:
        """Moves the columns that rows see to the front."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        for states in (self.keys, self.values):
            seen = states[: self.rows, :, self.start : self.end].clone()
            states[: self.rows, :, : seen.shape[2]] = seen
        self.start, self.end = 0, self.end - self.start

    def keep(self, rows: int, targets: Tensor, sources: Tensor, start: int) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`.

        Args:
            rows: How many are left.
            targets: Rows that have ended.
            sources: As many rows that have not.
            start: The first column that any row left sees.
        """
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        self.start = start
        for states in (self.keys, self.values):
            used = states[:, :, start : self.end]
            used.index_copy_(0, targets, used.index_select(0, sources))
        self.rows = rows
        if not rows:
            self.keys = self.values = None

    def get_seq_length(self) -> int:
        """Positions that the rows see so far."""
        return self.end - self.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `update` returns."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum that the model would need to know of."""
        return -1


class RowCache(Cache):
    """The cache of a whole model, of prompts or of rows; see `RowCacheLayer`."""

    layers: list[RowCacheLayer]

    def __init__(self, pads: Tensor | None = None, width: int = 0) -> None:
        """Makes an empty cache.

        Args:
            pads: `(N,)` padding before each prompt, in a cache of prompts.
            width: Tokens of the padded prompts.
        """
        super().__init__(layer_class_to_replicate=RowCacheLayer)
        self._first = np.empty(0, np.int64) if pads is None else pads.numpy(force=True)
        self._capacity = width
        self._hide(None if pads is None else pads.device)

    def mask(self, new: int) -> Tensor | None:
        """`(R, columns)` what each row may see once `new` columns are added; None for all."""
        if self._hidden is None:
            return None
        return self._hidden[:, self._start : self._end + new]

    def join(self, prompts: "RowCache", prompt_of_row: Sequence[int], new_tokens: int) -> None:
        """Adds rows that continue prompts.

        Args:
            prompts: Filled by a forward pass over left-padded prompts; emptied here.
            prompt_of_row: For each new row, the prompt that it continues.
            new_tokens: Tokens of its own that a row may come to hold.
        """
        length = max(self._end - self._start if len(self._first) else 0, prompts._end)
        self._capacity, moved = max(self._capacity, prompts._end + new_tokens), self._end
        device = prompts.layers[0].keys.device  # pyright: ignore[reportOptionalMemberAccess]
        of_row = torch.tensor(prompt_of_row, device=device)
        while len(self.layers) < len(prompts.layers):
            self.layers.append(RowCacheLayer())
        joining = prompts._first[np.asarray(prompt_of_row)] - prompts._end
        for own, theirs in zip(self.layers, prompts.layers, strict=True):
            own.join(theirs, of_row, length, self._capacity)
        self._first = np.concatenate((self._first - moved, joining)) + length
        self._hide(device)

    def make_room(self) -> None:
        """Sees to it that another column can be written."""
        if self._end < self._capacity:
            return
        self._first = self._first - self._start
        for layer in self.layers:
            layer.to_front()
        self._hide(None if self._hidden is None else self._hidden.device)

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Moves and drops rows in every layer."""
        self._first[targets.numpy(force=True)] = self._first[sources.numpy(force=True)]
        self._first = self._first[:rows]
        start = int(self._first.min()) if rows else 0
        for layer in self.layers:
            layer.keep(rows, targets, sources, start)
        if self._hidden is not None:
            self._hidden.index_copy_(0, targets, self._hidden[sources])
            self._hidden = self._hidden[:rows]

    @property
    def _start(self) -> int:
        return self.layers[0].start if self.layers else 0

    @property
    def _end(self) -> int:
        return self.layers[0].end if self.layers else 0

    def _hide(self, device: torch.device | None) -> None:
        """Makes what hides from each row the columns before its first."""
        self._hidden: Tensor | None = None
        if self._first.any():
            first = torch.from_numpy(self._first).to(device)
            self._hidden = torch.arange(self._capacity, device=device) >= first[:, None]
