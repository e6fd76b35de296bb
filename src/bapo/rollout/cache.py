"""The key-value cache of the sampler: prompts once, rows in place.

A transformers cache grows by concatenation, which copies everything at every token. This one is
allocated when the group's rows are made from the prompts, is written in place, and hands out views;
rows that have ended are dropped by moving live rows into their places.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class RowCacheLayer(CacheLayerMixin):
    """Keys and values of one layer.

    Life cycle: the first `update` takes the prompts, `(N, H, P, D)`, as they are; `expand` makes R
    rows of them, with room for `capacity` positions; every further `update` writes one position of
    all live rows; `keep` moves and drops rows. All layers hold full attention's positions; a
    sliding window is the mask's business.
    """

    is_compileable = False
    is_sliding = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = 0
        self.rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Takes the prompts' keys and values."""
        self.keys, self.values = key_states, value_states
        self.rows, self.length = key_states.shape[0], key_states.shape[2]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds positions and returns views of all positions so far.

        Args:
            key_states: `(R, H, T, D)` keys of the live rows.
            value_states: `(R, H, T, D')` values of the live rows.
            args: Not used; transformers' interface.
            kwargs: Not used; transformers' interface.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[2]
        keys, values = self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]
        keys[:, :, self.length :] = key_states
        values[:, :, self.length :] = value_states
        self.length = end
        return keys, values

    def expand(self, prompt_of_row: Tensor, capacity: int) -> None:
        """Makes rows from prompts: row i continues prompt `prompt_of_row[i]`.

        Args:
            prompt_of_row: `(R,)` indices of prompts.
            capacity: Positions that a row may come to hold, its prompt included.
        """
        if not self.is_initialized:  # layers that share another layer's keys are never updated
            return
        assert self.keys is not None
        assert self.values is not None
        self.keys = _expanded(self.keys, prompt_of_row, capacity)
        self.values = _expanded(self.values, prompt_of_row, capacity)
        self.rows = len(prompt_of_row)

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        for states in (self.keys, self.values):
            used = states[:, :, : self.length]
            used.index_copy_(0, targets, used.index_select(0, sources))
        self.rows = rows

    def get_seq_length(self) -> int:
        """Positions held so far."""
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `update` returns."""
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        """No maximum that the model would need to know of."""
        return -1


class RowCache(Cache):
    """The cache of a whole model; see `RowCacheLayer` for its life cycle.

    Attributes:
        mask: `(R, capacity)` which positions each row may see; None where every row sees all.
    """

    layers: list[RowCacheLayer]

    def __init__(self, mask: Tensor | None = None) -> None:
        """Makes an empty cache.

        Args:
            mask: Of the prompts, `(N, capacity)`.
        """
        super().__init__(layer_class_to_replicate=RowCacheLayer)
        self.mask = mask

    def expand(self, prompt_of_row: Tensor, capacity: int) -> None:
        """Makes rows from prompts in every layer."""
        for layer in self.layers:
            layer.expand(prompt_of_row, capacity)
        self.mask = None if self.mask is None else self.mask[prompt_of_row]

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Moves and drops rows in every layer."""
        for layer in self.layers:
            layer.keep(rows, targets, sources)
        if self.mask is not None:
            self.mask.index_copy_(0, targets, self.mask[sources])
            self.mask = self.mask[:rows]


def _expanded(states: Tensor, prompt_of_row: Tensor, capacity: int) -> Tensor:
    """`(N, H, P, D)` prompts as `(R, H, capacity, D)` rows; what lies behind P is not set."""
    _, heads, length, size = states.shape
    rows = torch.empty(
        (len(prompt_of_row), heads, capacity, size), dtype=states.dtype, device=states.device
    )
    rows[:, :, :length] = states.index_select(0, prompt_of_row)
    return rows
