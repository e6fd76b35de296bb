"""The hand-written decoder with its small operations in C.

Beside matrix products a token step is norms, rotations, attention and activations over arrays that
barely fill a cache: some twenty small operations a layer in torch, three calls here (kernels.c).
Attention goes row by row through a prompt's keys, held once for its whole group, and then through
the row's own, and fetches the next row's meanwhile; nothing is gathered, masked or copied.
Results differ from the torch decoder's by rounding alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bapo.rollout.cache import RowCache
from bapo.rollout.decoder import TokenDecoder, Workspace
from bapo.rollout.native import BatchStruct, address, kernels

# Tokens of its own that a row has room for at first.
_FIRST_CAPACITY = 16


class NativeCache:
    """Keys and values of one batch: each prompt's once, each completion's own beside it.

    Life cycle: made from the prompts' cache, whose contents it takes over; `layer` is asked for
    once per layer and token, then `advance`; `keep` drops rows that have ended. Room for the rows'
    own tokens is doubled when it is full, so that what is read lies close together and short
    completions do not pay for long ones; half of the rows gone, it is given back, and with it the
    prompts that no row is left of.
    """

    def __init__(
        self,
        prompts: RowCache,
        pads: Tensor,
        prompt_of_row: Sequence[int],
        capacity: int,
        heads: int,
        order: Tensor,
    ) -> None:
        """Takes over the prompts.

        Args:
            prompts: See `TokenDecoder.cache`, as for the next three.
            pads: `(N,)`.
            prompt_of_row: R indices.
            capacity: In tokens.
            heads: Query heads, a multiple of the key heads.
            order: `(D,)` the order in which the decoder holds the numbers of a key.
        """
        first: Any = prompts.layers[0]
        _, key_heads, width, size = first.keys.shape
        self._most = capacity
        self._prompt = torch.tensor(prompt_of_row, dtype=torch.int64)
        self._pads = pads.to(torch.int64).contiguous()
        self._prompt_keys: list[Tensor] = []
        self._prompt_values: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self.rows, self.length = len(prompt_of_row), 0
        shape = (self.rows, key_heads, min(capacity, _FIRST_CAPACITY), size)
        for layer in prompts.layers:
            keys, values = layer.keys, layer.values
            assert keys is not None
            assert values is not None
            self._prompt_keys.append(keys.index_select(3, order))
            self._prompt_values.append(values.contiguous())
            layer.keys = layer.values = None
            self._keys.append(values.new_empty(shape))
            self._values.append(values.new_empty(shape))
        self._structs = [
            BatchStruct(heads=heads, key_heads=key_heads, size=size, width=width)
            for _ in self._keys
        ]
        self._describe()

    def layer(self, number: int) -> BatchStruct:
        """What the C functions are told of a layer; good until the next `advance` or `keep`."""
        return self._structs[number]

    def advance(self) -> None:
        """Counts the token whose keys every layer now holds, and makes room for the next."""
        self.length += 1
        held = self._keys[0].shape[2]
        if self.length == held < self._most:
            self._move(self.rows, min(2 * held, self._most))
        self._describe()

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        for states in (*self._keys, *self._values):
            used = states[:, :, : self.length]
            used.index_copy_(0, targets, used.index_select(0, sources))
        self._prompt[targets] = self._prompt[sources]
        self.rows = rows
        if 2 * rows <= len(self._keys[0]):
            self._move(rows, self._keys[0].shape[2])
            self._drop_prompts()
        self._describe()

    def _move(self, rows: int, capacity: int) -> None:
        """Puts the rows' own keys and values into arrays of another size, a layer at a time."""
        for held in (self._keys, self._values):
            for number, states in enumerate(held):
                moved = states.new_empty((rows, states.shape[1], capacity, states.shape[3]))
                moved[:, :, : self.length] = states[:rows, :, : self.length]
                held[number] = moved

    def _drop_prompts(self) -> None:
        """Lets prompts go that no row continues, once they are half of those held."""
        left, numbers = torch.unique(self._prompt[: self.rows], return_inverse=True)
        if 2 * len(left) > len(self._pads):
            return
        self._prompt, self._pads = numbers, self._pads[left]
        for held in (self._prompt_keys, self._prompt_values):
            for number, states in enumerate(held):
                held[number] = states.index_select(0, left)

    def _describe(self) -> None:
        for number, struct in enumerate(self._structs):
            struct.rows, struct.length = self.rows, self.length
            struct.capacity = self._keys[number].shape[2]
            struct.prompt_of_row = address(self._prompt, torch.int64)
            struct.pads = address(self._pads, torch.int64)
            struct.prompt_keys = address(self._prompt_keys[number])
            struct.prompt_values = address(self._prompt_values[number])
            struct.keys = address(self._keys[number])
            struct.values = address(self._values[number])


class NativeDecoder(TokenDecoder[NativeCache]):
    """Norms, attends and activates in C; see `TokenDecoder`."""

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        """Prepares the weights; see `TokenDecoder`.

        Raises:
            ModelError: The C functions cannot be built here.
        """
        super().__init__(model, positions)
        self._kernels = kernels()
        self._table = torch.view_as_real(self._rotation).reshape(positions, -1).contiguous()

    def cache(
        self, prompts: RowCache, pads: Tensor, prompt_of_row: Sequence[int], capacity: int
    ) -> NativeCache:
        """The cache of a batch whose prompts went through the model; see `NativeCache`."""
        return NativeCache(prompts, pads, prompt_of_row, capacity, self._heads, self._order)

    def _turns(self, positions: Tensor) -> Tensor:
        """`(R,)` places in the table of rotations."""
        return positions.contiguous()

    def _attend(
        self, number: int, caches: Sequence[NativeCache], space: Workspace, turns: Tensor
    ) -> None:
        start = 0
        for cache in caches:
            own = slice(start, start + cache.rows)
            batch = cache.layer(number)
            self._kernels.attend(batch, space.qkv[own], self._table, turns[own], space.mixed[own])
            start += cache.rows

    def _norm(self, space: Workspace) -> Tensor:
        self._kernels.normalise(space.hidden, self._epsilon, space.normed)
        return space.normed

    def _activate(self, space: Workspace) -> Tensor:
        self._kernels.gated_activation(space.joined, space.activated)
        return space.activated
