"""The hand-written decoder with its small operations in C.

Beside matrix products a token step is norms, rotations, attention and activations over arrays that
barely fill a cache: some twenty small operations a layer in torch, three calls here (kernels.c).
Attention goes row by row through a prompt's keys, held once for its whole group, and then through
the row's own, and fetches the next row's meanwhile; nothing is gathered, masked or copied.
Results differ from the torch decoder's by rounding alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bapo.rollout.decoder import TokenDecoder, Workspace
from bapo.rollout.native import ROW_FIELDS, BatchStruct, address, kernels

# Tokens of its own that a row has room for at first.
_FIRST_CAPACITY = 16


class NativeCache:
    """Keys and values of the rows: each prompt's once, each completion's own beside it.

    Life cycle: made empty; `join` adds prompts and rows; `layer` is asked for once per layer and
    token, then `advance`; `keep` drops rows that have ended. A row's own keys stay where they are
    when the row itself is moved, and a row that joins later gets the place of one that has left.
    Room for a row's own tokens is doubled when it is full, so that what is read lies close together
    and short completions do not pay for long ones; free places are given back then, and prompts
    that no row is left of then and when others join.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int], new_tokens: int) -> None:
        """Makes a cache without rows.

        Args:
            layers: Of the model.
            shape: Query heads, key heads (a divisor of them), numbers in a key.
            new_tokens: Tokens of its own that a row may come to hold.
        """
        heads, self._key_heads, self._size = shape
        self._most = new_tokens
        self._of_row = {name: torch.empty(0, dtype=torch.int64) for name in ROW_FIELDS}
        self._longest = 0
        vectors = torch.empty((0, self._size), dtype=torch.float32)
        self._prompts = [(vectors, vectors)] * layers
        self._capacity = self._places = 0
        self._own = [(vectors, vectors)] * layers
        self._structs = [
            BatchStruct(heads=heads, key_heads=self._key_heads, size=self._size)
            for _ in range(layers)
        ]

    @property
    def rows(self) -> int:
        """Rows that are held."""
        return len(self._of_row["own"])

    def layer(self, number: int) -> BatchStruct:
        """What the C functions are told of a layer; good until rows join, leave or advance."""
        return self._structs[number]

    def join(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        pads: Tensor,
        prompt_of_row: Sequence[int],
    ) -> None:
        """Adds rows that continue prompts; see `DecoderCache.join`."""
        self._drop_prompts()
        width, prompt = keys[0].shape[2], torch.tensor(prompt_of_row, dtype=torch.int64)
        joining = {
            "place": self._free_places(len(prompt)),
            "own": torch.zeros_like(prompt),
            "first": len(self._prompts[0][0]) + prompt * self._key_heads * width,
            "width": torch.full_like(prompt, width),
            "pad": pads[prompt],
        }
        for name, line in self._of_row.items():
            self._of_row[name] = torch.cat((line, joining[name]))
        for number, held in enumerate(self._prompts):
            new = (states.reshape(-1, self._size) for states in (keys[number], values[number]))
            before, behind = zip(held, new, strict=True)
            self._prompts[number] = torch.cat(before), torch.cat(behind)
        self._describe()

    def advance(self) -> None:
        """Counts the token whose keys every layer now holds, and makes room for the next."""
        self._of_row["own"] += 1
        self._longest += 1
        if self._longest == self._capacity < self._most:
            self._move(self.rows, min(2 * self._capacity, self._most))
            self._drop_prompts()
            self._describe()
        for struct in self._structs:
            struct.longest = self._longest

    def keep(self, rows: int, targets: Tensor, sources: Tensor) -> None:
        """Drops all but `rows` rows, after copying rows `sources` over rows `targets`."""
        for name, line in self._of_row.items():
            line[targets] = line[sources]
            self._of_row[name] = line[:rows]
        self._longest = int(self._of_row["own"].max()) if rows else 0
        self._describe()

    def _free_places(self, count: int) -> Tensor:
        """Places for new rows; room is made where there are too few."""
        if self._places - self.rows < count:
            capacity = self._capacity if self.rows else min(self._most, _FIRST_CAPACITY)
            self._move(self.rows + count, capacity)
        free = torch.ones(self._places, dtype=torch.bool)
        free[self._of_row["place"]] = False
        return free.nonzero()[:count, 0]

    def _move(self, places: int, capacity: int) -> None:
        """Puts the rows' own keys and values into arrays of another size, a layer at a time."""
        held, shape = self._of_row["place"], (places, self._key_heads, capacity, self._size)
        for number, layer in enumerate(self._own):
            moved = []
            for states in layer:
                larger = states.new_empty(shape)
                if len(held):
                    larger[: len(held), :, : self._longest] = states[held, :, : self._longest]
                moved.append(larger)
            self._own[number] = moved[0], moved[1]
        self._of_row["place"] = torch.arange(len(held))
        self._places, self._capacity = places, capacity

    def _drop_prompts(self) -> None:
        """Lets prompts go that no row continues."""
        first, width = self._of_row["first"], self._of_row["width"]
        left, numbers = torch.unique(first, return_inverse=True)
        lengths = torch.empty_like(left)
        lengths[numbers] = width * self._key_heads
        if int(lengths.sum()) == len(self._prompts[0][0]):
            return
        ends = lengths.cumsum(0)
        self._of_row["first"] = (ends - lengths)[numbers]
        kept = torch.arange(int(lengths.sum())) + (left - ends + lengths).repeat_interleave(lengths)
        self._prompts = [(keys[kept], values[kept]) for keys, values in self._prompts]

    def _describe(self) -> None:
        """Tells C where everything lies."""
        for number, struct in enumerate(self._structs):
            struct.rows, struct.longest, struct.capacity = self.rows, self._longest, self._capacity
            for name, line in self._of_row.items():
                setattr(struct, name, address(line, torch.int64))
            struct.prompt_keys, struct.prompt_values = map(address, self._prompts[number])
            struct.keys, struct.values = map(address, self._own[number])


class NativeDecoder(TokenDecoder[NativeCache]):
    """Norms, attends and activates in C; see `TokenDecoder`."""

    def __init__(self, model: PreTrainedModel, widest: int, new_tokens: int) -> None:
        """Prepares the weights; see `TokenDecoder`.

        Raises:
            ModelError: The C functions cannot be built here.
        """
        super().__init__(model, widest, new_tokens)
        self._kernels = kernels()
        self._table = torch.view_as_real(self._rotation).flatten(1).contiguous()

    def store(self) -> NativeCache:
        """A cache without rows."""
        shape = (self._heads, self._key_heads, self._size)
        return NativeCache(len(self._layers), shape, self._new_tokens)

    def draw(self, logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draws a token for every row; see `Kernels.draw`."""
        return self._kernels.draw(logits, uniforms, temperature)

    def _turns(self, positions: Tensor) -> Tensor:
        """`(R,)` places in the table of rotations."""
        return positions

    def _attend(self, number: int, store: NativeCache, space: Workspace, turns: Tensor) -> None:
        self._kernels.attend(store.layer(number), space.qkv, self._table, turns, space.mixed)

    def _norm(self, space: Workspace) -> Tensor:
        self._kernels.normalise(space.hidden, self._epsilon, space.normed)
        return space.normed

    def _activate(self, space: Workspace) -> Tensor:
        self._kernels.gated_activation(space.joined, space.activated)
        return space.activated
