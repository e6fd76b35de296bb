"""The hand-written decoder with its small operations in torch: it needs no C compiler."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from bapo.rollout.cache import RowCache
from bapo.rollout.decoder import TokenDecoder, Workspace
from bapo.rollout.group_cache import GroupCache


class TorchDecoder(TokenDecoder[GroupCache]):
    """Attends to prompts group by group in batched products; see `TokenDecoder`."""

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        """Prepares the weights; see `TokenDecoder`."""
        super().__init__(model, positions)
        self._least = torch.tensor(self._epsilon, dtype=torch.float32)

    def cache(
        self, prompts: RowCache, pads: Tensor, prompt_of_row: Sequence[int], capacity: int
    ) -> GroupCache:
        """The cache of a batch whose prompts went through the model; see `GroupCache`."""
        return GroupCache(prompts, pads, prompt_of_row, capacity, self._heads, self._order)

    def _turns(self, positions: Tensor) -> Tensor:
        """`(R, 1, D / 2)` complex."""
        return self._rotation.index_select(0, positions)

    def _attend(
        self, number: int, caches: Sequence[GroupCache], space: Workspace, turns: Tensor
    ) -> None:
        heads, turning = self._heads, self._heads + self._key_heads
        joined = space.qkv.view(space.rows, -1, self._size)
        pairs = torch.view_as_complex(joined.unflatten(2, (-1, 2)))
        queries = torch.mul(pairs[:, :heads], turns)
        flat = torch.view_as_real(queries).view(-1, self._size)
        mixed = space.mixed.view(-1, self._size)
        start = 0
        for cache in caches:
            end = start + cache.rows
            new = slice(start, end)
            cache.append(number, pairs[new, heads:turning], turns[new], joined[new, turning:])
            by_head = slice(start * heads, end * heads)
            cache.attend(number, flat[by_head], mixed[by_head])
            start = end

    def _norm(self, space: Workspace) -> Tensor:
        length = torch.linalg.vector_norm(space.hidden, dim=-1, keepdim=True, out=space.length)
        share = 1.0 / space.hidden.shape[1]
        torch.addcmul(self._least, length, length, value=share, out=length).rsqrt_()
        return torch.mul(space.hidden, length, out=space.normed)

    def _activate(self, space: Workspace) -> Tensor:
        gate, up = space.joined.chunk(2, dim=1)
        return torch.mul(functional.silu(gate, inplace=True), up, out=space.activated)
