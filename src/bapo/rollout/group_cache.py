"""Keys and values of a batch of groups: each prompt's once, each completion's own beside it.

A prompt's keys are the same for every completion of its group. Held once, they are read once per
token step for all of them, in matrix products of G queries instead of one, and they cost the memory
of one row and not of G. Every completion's own keys lie in an array allocated when the batch begins
and written in place.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_Numbers = npt.NDArray[np.int64]


# A batched product of at most so many multiplications a matrix takes torch's slow path; a few empty
# columns make it larger.
_SLOW_PRODUCT = 400


class GroupCache:
    """The cache of the rows in the hand-written decoder (`bapo.rollout.torch_decoder`).

    Life cycle: made empty; `join` adds prompts and rows; `append` and `attend` are called once per
    layer and token, then `advance`; `keep` drops rows that have ended, and with them prompts that
    no row is left of. All rows write the same column of their own keys; what stands before a row's
    first is hidden from it. Rows stand in any order; where the attention over prompts needs them
    group by group, they are gathered through an index that `join` and `keep` make anew.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int], new_tokens: int) -> None:
        """Makes a cache without rows.

        Args:
            layers: Of the model.
            shape: Query heads, key heads (a divisor of them), numbers in a key.
            new_tokens: Tokens of its own that a row may come to hold.
        """
        self._heads, self._key_heads, self._size = shape
        self._narrowest = 1 + _SLOW_PRODUCT // self._size
        self._capacity = max(new_tokens, self._narrowest)
        self._prompt = np.empty(0, dtype=np.int64)
        self._first = np.empty(0, dtype=np.int64)
        self._pads = torch.empty(0, dtype=torch.int64)
        self._width = self.length = 0
        # In the keys' own number type, whatever torch's default is.
        empty = torch.empty((0, self._size, 0), dtype=torch.float32)
        self._prompt_keys, self._prompt_values = [empty] * layers, [empty.mT] * layers
        own = empty.new_empty((0, self._key_heads, 0, self._size))
        self._keys, self._values = [own] * layers, [own] * layers

    @property
    def rows(self) -> int:
        """Rows that are held."""
        return len(self._prompt)

    def join(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        pads: Tensor,
        prompt_of_row: Sequence[int],
    ) -> None:
        """Adds rows that continue prompts; see `DecoderCache.join`."""
        rows, count = self.rows, len(self._pads)
        width = max(self._width, keys[0].shape[2])
        for number, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
            told, said = own_keys.mT.flatten(0, 1), own_values.flatten(0, 1)
            parts = (self._prompt_keys[number], told)
            self._prompt_keys[number] = torch.cat([_padded(one, width, 2) for one in parts])
            parts = (self._prompt_values[number], said)
            self._prompt_values[number] = torch.cat([_padded(one, width, 1) for one in parts])
        newest = pads + (width - keys[0].shape[2])
        self._pads = torch.cat((self._pads + (width - self._width), newest))
        self._width = width
        joining = count + np.asarray(prompt_of_row, dtype=np.int64)
        self._resize(rows + len(joining))
        self._first = np.concatenate((self._first, np.full(len(joining), self.length)))
        self._prompt = np.concatenate((self._prompt, joining))
        self._index()

    def append(self, layer: int, keys: Tensor, rotation: Tensor, values: Tensor) -> None:
        """Writes the newest token's keys, rotated on the way, and values.

        Args:
            layer: Which layer.
            keys: `(R, Hk, D / 2)` complex, before their rotation.
            rotation: `(R, 1, D / 2)` complex.
            values: `(R, Hk, D)`.
        """
        column = self._keys[layer][: self.rows, :, self.length]
        pairs = torch.view_as_complex(column.unflatten(2, (-1, 2)))
        torch.mul(keys, rotation, out=pairs)
        self._values[layer][: self.rows, :, self.length] = values

    def attend(self, layer: int, queries: Tensor, out: Tensor) -> None:
        """Attention of the newest token to its prompt, its completion, and itself.

        Args:
            layer: Which layer; its newest keys were appended.
            queries: `(R * H, D)`, rotated and scaled.
            out: `(R * H, D)`, is written.
        """
        own_length, flat = self.length + 1, self.rows * self._key_heads
        own_keys = self._keys[layer].flatten(0, 1)[:flat, :own_length]
        by_prompt = queries.index_select(0, self._gather).view(*self._grid, self._size)
        keys, values = self._prompt_keys[layer], self._prompt_values[layer]
        if self._bias is None:
            to_prompt = torch.bmm(by_prompt, keys)
        else:
            to_prompt = torch.baddbmm(self._bias, by_prompt, keys)
        by_row = queries.view(flat, -1, self._size)
        to_own = torch.bmm(by_row, own_keys.transpose(1, 2)).view(-1, own_length)
        if self._hidden is not None:
            to_own.masked_fill_(self._hidden[:, :own_length], float("-inf"))
        parts = [to_prompt.view(-1, self._width).index_select(0, self._scatter), to_own]
        if own_length < self._narrowest:
            parts.append(self._nothing[: len(queries), own_length:])
        shares = torch.softmax(torch.cat(parts, dim=1), dim=-1)
        of_prompt = shares[:, : self._width].index_select(0, self._gather)
        mixed = torch.bmm(of_prompt.view(*self._grid, self._width), values)
        mixed = mixed.view(-1, self._size).index_select(0, self._scatter).view_as(by_row)
        of_own = shares[:, self._width :].unflatten(0, (flat, -1))
        own_values = self._values[layer].flatten(0, 1)[:flat, : of_own.shape[2]]
        torch.baddbmm(mixed, of_own, own_values, out=out.view_as(by_row))

    def advance(self) -> None:
        """Counts the token whose keys every layer now holds, and makes room for the next."""
        self.length += 1
        if self.length == self._capacity:
            self._resize(self.rows)
            self._index()

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        for states in (*self._keys, *self._values):
            used = states[:, :, : self.length]
            used.index_copy_(0, targets, used.index_select(0, sources))
        for states in (self._prompt, self._first):
            states[targets.numpy()] = states[sources.numpy()]
        self._prompt, self._first = self._prompt[:rows], self._first[:rows]
        if 2 * rows <= len(self._keys[0]):
            self._resize(rows)
        self._drop_prompts()
        self._index()

    def _resize(self, room: int) -> None:
        """Makes other arrays for so many rows' own keys, without the columns that no row sees."""
        rows = self.rows
        start = int(self._first.min()) if rows else self.length
        span = self.length - start
        for held in (self._keys, self._values):
            for number, states in enumerate(held):
                other = states.new_empty((room, self._key_heads, self._capacity, self._size))
                # What a row does not see must be finite all the same.
                other[:, :, : max(span, self._narrowest)] = 0.0
                other[:rows, :, :span] = states[:rows, :, start : self.length]
                held[number] = other
        self._first, self.length = self._first - start, span

    def _drop_prompts(self) -> None:
        """Lets prompts go that no row continues, once they are a quarter of those held."""
        left, numbers = np.unique(self._prompt, return_inverse=True)
        if 4 * len(left) > 3 * len(self._pads):
            return
        kept = torch.from_numpy(left)
        for tensors in (self._prompt_keys, self._prompt_values):
            for number, states in enumerate(tensors):
                by_prompt = states.unflatten(0, (len(self._pads), self._key_heads))
                tensors[number] = by_prompt.index_select(0, kept).flatten(0, 1)
        self._pads, self._prompt = self._pads[kept], numbers.astype(np.int64)

    def _index(self) -> None:
        """Where each row and head stands in a grid of prompts x key heads x rows x query heads.

        A grid place without a row repeats row 0; what is worked out there is never read. Made with
        it: what hides padding before the prompts and columns before the rows' first.
        """
        if not self.rows:
            return
        heads, key_heads, count = self._heads, self._key_heads, len(self._pads)
        place, most = _places(self._prompt)
        key_head, query = np.divmod(np.arange(heads), heads // key_heads)
        grid = (count, key_heads, most, heads // key_heads)
        inside = np.ravel_multi_index(
            (self._prompt[:, None], key_head[None], place[:, None], query[None]), grid
        )
        gather = np.zeros(int(np.prod(grid)), dtype=np.int64)
        gather[inside.ravel()] = np.arange(inside.size)
        self._gather, self._scatter = torch.from_numpy(gather), torch.from_numpy(inside.ravel())
        self._grid = (count * key_heads, most * (heads // key_heads))
        nothing = self._keys[0].new_full((1, 1), float("-inf"))
        self._nothing = nothing.expand(self.rows * heads, self._narrowest)
        self._bias = self._hidden = None
        if bool(self._pads.any()):
            hidden = torch.arange(self._width) < self._pads.repeat_interleave(key_heads)[:, None]
            self._bias = torch.where(hidden, nothing, 0.0)[:, None]
        if self._first.any():
            first = torch.from_numpy(self._first).repeat_interleave(heads)
            self._hidden = torch.arange(self._keys[0].shape[2]) < first[:, None]


def _padded(states: Tensor, width: int, axis: int) -> Tensor:
    """Padded with zeros on the left of an axis."""
    missing = list(states.shape)
    missing[axis] = width - missing[axis]
    return torch.cat((states.new_zeros(missing), states), dim=axis)


def _places(prompt: _Numbers) -> tuple[_Numbers, int]:
    """Each row's number among the rows of its prompt, and the most rows of any prompt."""
    order = np.argsort(prompt, kind="stable")
    counts = np.bincount(prompt)
    counts = counts[counts > 0]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty_like(prompt)
    place[order] = np.arange(len(prompt)) - starts
    return place, int(counts.max())
