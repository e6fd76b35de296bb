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
    """The cache of the rows in `bapo.rollout.torch_decoder`.

    Life cycle: made empty; `join` takes prompts and rows, once no others are left; `append` and
    `attend` are called once per layer and token, then `advance`; `keep` drops rows that have ended,
    and with them prompts that no row is left of. Rows stand in any order; where the attention over
    prompts needs them group by group, they are gathered through an index that `keep` makes anew.
    """

    def __init__(self, shape: tuple[int, int, int], new_tokens: int) -> None:
        """Makes a cache without rows.

        Args:
            shape: Query heads, key heads (a divisor of them), numbers in a key.
            new_tokens: Tokens of its own that a row may come to hold.
        """
        self._heads, self._key_heads, self._size = shape
        self._capacity = new_tokens
        self._narrowest = min(new_tokens, 1 + _SLOW_PRODUCT // self._size)
        self.rows = self.length = 0

    def join(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        pads: Tensor,
        prompt_of_row: Sequence[int],
    ) -> None:
        """Takes the first rows; see `DecoderCache.join`."""
        assert not self.rows
        self.rows, self.length = len(prompt_of_row), 0
        self._prompt = np.asarray(prompt_of_row, dtype=np.int64)
        self._count, _, self._width, _ = keys[0].shape
        # In the keys' own number type, whatever torch's default is.
        shape = (self.rows * self._heads, self._narrowest)
        self._nothing = keys[0].new_full(shape, float("-inf"))
        self._prompt_keys = [states.mT.flatten(0, 1) for states in keys]
        self._prompt_values = [states.flatten(0, 1) for states in values]
        self._keys = [self._own(states) for states in keys]
        self._values = [self._own(states) for states in values]
        hidden = torch.arange(self._width) < pads[:, None]
        bias = self._nothing.new_zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        self._bias = self._by_head(bias) if bool(hidden.any()) else None
        self._index()

    def _own(self, states: Tensor) -> Tensor:
        """Room for what the rows come to hold."""
        own = states.new_empty((self.rows, self._key_heads, self._capacity, self._size))
        own[:, :, : self._narrowest] = 0.0
        return own

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
        """Counts the token whose keys every layer now holds."""
        self.length += 1

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        shrink = 2 * rows <= len(self._keys[0])
        filled = max(self.length, self._narrowest)
        for held in (self._keys, self._values):
            for number, states in enumerate(held):
                used = states[:, :, :filled]
                used.index_copy_(0, targets, used.index_select(0, sources))
                if shrink:  # what a completion may still come to is not copied
                    smaller = states.new_empty((rows, *states.shape[1:]))
                    smaller[:, :, :filled] = used[:rows]
                    held[number] = smaller
        self._prompt[targets.numpy()] = self._prompt[sources.numpy()]
        self._prompt = self._prompt[:rows]
        self.rows = rows
        if rows:
            self._drop_prompts()
            self._index()

    def _drop_prompts(self) -> None:
        """Lets prompts go that no row continues, once they are a quarter of those held."""
        left, numbers = np.unique(self._prompt, return_inverse=True)
        if 4 * len(left) > 3 * self._count:
            return
        kept = torch.from_numpy(left)
        held = [self._prompt_keys, self._prompt_values]
        for tensors in held:
            for number, states in enumerate(tensors):
                by_prompt = states.unflatten(0, (self._count, self._key_heads))
                tensors[number] = by_prompt.index_select(0, kept).flatten(0, 1)
        if self._bias is not None:
            by_prompt = self._bias.unflatten(0, (self._count, self._key_heads))
            self._bias = by_prompt.index_select(0, kept).flatten(0, 1)
        self._count, self._prompt = len(left), numbers.astype(np.int64)

    def _index(self) -> None:
        """Where each row and head stands in a grid of prompts x key heads x rows x query heads.

        A grid place without a row repeats row 0; what is worked out there is never read.
        """
        heads, key_heads = self._heads, self._key_heads
        place, most = _places(self._prompt)
        key_head, query = np.divmod(np.arange(heads), heads // key_heads)
        grid = (self._count, key_heads, most, heads // key_heads)
        inside = np.ravel_multi_index(
            (self._prompt[:, None], key_head[None], place[:, None], query[None]), grid
        )
        gather = np.zeros(int(np.prod(grid)), dtype=np.int64)
        gather[inside.ravel()] = np.arange(inside.size)
        self._gather, self._scatter = torch.from_numpy(gather), torch.from_numpy(inside.ravel())
        self._grid = (self._count * key_heads, most * (heads // key_heads))

    def _by_head(self, states: Tensor) -> Tensor:
        """`(N, P)` as `(N * Hk, 1, P)`."""
        return states[:, None].expand(-1, self._key_heads, -1).flatten(0, 1)[:, None]


def _places(prompt: _Numbers) -> tuple[_Numbers, int]:
    """Each row's number among the rows of its prompt, and the most rows of any prompt."""
    order = np.argsort(prompt, kind="stable")
    counts = np.bincount(prompt)
    counts = counts[counts > 0]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty_like(prompt)
    place[order] = np.arange(len(prompt)) - starts
    return place, int(counts.max())
