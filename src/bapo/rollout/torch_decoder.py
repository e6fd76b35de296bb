"""The hand-written decoder with its small operations in torch: it needs no C compiler."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from bapo.rollout.decoder import TokenDecoder, Workspace
from bapo.rollout.group_cache import GroupCache


class TorchDecoder(TokenDecoder[GroupCache]):
    """Attends to prompts group by group in batched products; see `TokenDecoder`.

    Nothing joins: rows of several ages would have to be masked, and groups of which few rows are
    left make the products larger for all. Measured, it costs more than it saves.
    """

    joins = False

    def __init__(self, model: PreTrainedModel, widest: int, new_tokens: int) -> None:
        """Prepares the weights; see `TokenDecoder`."""
        super().__init__(model, widest, new_tokens)
        self._least = torch.tensor(self._epsilon, dtype=torch.float32)

    def store(self) -> GroupCache:
        """A cache without rows."""
        shape = (self._heads, self._key_heads, self._size)
        return GroupCache(shape, self._new_tokens)

    def _turns(self, positions: Tensor) -> Tensor:
        """`(R, 1, D / 2)` complex."""
        return self._rotation.index_select(0, positions)

    def _attend(self, number: int, store: GroupCache, space: Workspace, turns: Tensor) -> None:
        heads, turning = self._heads, self._heads + self._key_heads
        joined = space.qkv.view(space.rows, -1, self._size)
        pairs = torch.view_as_complex(joined.unflatten(2, (-1, 2)))
        queries = torch.view_as_real(torch.mul(pairs[:, :heads], turns)).view(-1, self._size)
        store.append(number, pairs[:, heads:turning], turns, joined[:, turning:])
        store.attend(number, queries, space.mixed.view(-1, self._size))

    def _norm(self, space: Workspace) -> Tensor:
        length = torch.linalg.vector_norm(space.hidden, dim=-1, keepdim=True)
        share = 1.0 / space.hidden.shape[1]
        torch.addcmul(self._least, length, length, value=share, out=length).rsqrt_()
        return torch.mul(space.hidden, length, out=space.normed)

    def _activate(self, space: Workspace) -> Tensor:
        gate, up = space.joined.chunk(2, dim=1)
        return torch.mul(functional.silu(gate, inplace=True), up, out=space.activated)
