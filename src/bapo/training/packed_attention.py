"""Attention that knows packs: in C, for float32 on a CPU, and for no pair that a mask would hide.

Packs stand end to end in one line (see `bapo.training.micro_batches`), and positions say all that
attention needs to know of them: a pack begins at position 0, and a run of tokens that begins at
position p sees the first p tokens of its pack, and itself causally. transformers hands a model's
4-dimensional attention mask to its attention function as it is. So positions, which are integers
as no mask is, stand there in a mask's place, and the function that models know as "sdpa" is
replaced by one that takes both. Gradient checkpointing keeps them like any mask.
"""

import ctypes
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from bapo.rollout import address
from bapo.training.native_layers import library

_NUMBERS = ("tokens", "packs", "longest", "heads", "key_heads", "size")
_POINTERS = ("starts", "positions", "queries", "keys", "values")


class _LineStruct(ctypes.Structure):
    """`struct line` in packed_attention.c.

    T tokens in `packs`, of which the `longest` has that many tokens, and pack n those from
    `starts[n]` to `starts[n + 1]`. Queries are `(T, heads, size)`, keys and values
    `(T, key_heads, size)`; scores are multiplied by `scale`.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("scale", ctypes.c_float),
    )


class _SlopesStruct(ctypes.Structure):
    """`struct slopes` in packed_attention.c."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("out", "logarithms", "of_out", "queries", "keys", "values")
    )


@cache
def tell_transformers() -> None:
    """Models whose attention is "sdpa" take positions in a mask's place from here on."""
    AttentionInterface.register("sdpa", _sdpa_or_packed)


def packed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float
) -> Tensor:
    """Attention of packs in one line, with the gradient of queries, keys and values.

    Args:
        queries: `(T, H, D)` float32.
        keys: `(T, Hk, D)` float32; H is a multiple of Hk.
        values: `(T, Hk, D)` float32.
        positions: `(T,)` int64, 0 at the first token of every pack.
        scale: What scores are multiplied by.

    Returns:
        `(T, H, D)`.

    Raises:
        MemoryError: There is no memory for the scores of a few queries.
    """
    return _PackedAttention.apply(queries, keys, values, positions, scale)


class _PackedAttention(torch.autograd.Function):
    """The two C functions."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float
    ) -> Tensor:
        kept = [one.contiguous() for one in (queries, keys, values, positions)]
        out = torch.empty_like(kept[0])
        logarithms = queries.new_empty((queries.shape[1], len(queries)))
        starts = _starts(kept[3])
        line = _line(kept, starts, scale)
        _call("attend_packs", line, address(out), address(logarithms))
        ctx.save_for_backward(*kept, starts, out, logarithms)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        *kept, starts, out, logarithms = ctx.saved_tensors
        line = _line(kept, starts, ctx.scale)
        found = [torch.empty_like(one) for one in kept[:3]]
        of_out = of_out.contiguous()
        told = _SlopesStruct(*(address(one) for one in (out, logarithms, of_out, *found)))
        _call("attend_packs_backward", line, ctypes.addressof(told))
        return *found, None, None


def _starts(positions: Tensor) -> Tensor:
    """Where packs begin, and where the last one ends."""
    starts = torch.nonzero(positions == 0)[:, 0]
    return torch.cat([starts, torch.tensor([len(positions)])])


def _line(kept: list[Tensor], starts: Tensor, scale: float) -> _LineStruct:
    queries, keys, values, positions = kept
    tokens, heads, size = queries.shape
    assert keys.shape == values.shape == (tokens, keys.shape[1], size)
    assert heads % keys.shape[1] == 0
    assert positions.shape == (tokens,)
    longest = max(end - start for start, end in pairwise(starts.tolist()))
    return _LineStruct(
        *(tokens, len(starts) - 1, longest, heads, keys.shape[1], size),
        *(address(one, torch.int64) for one in (starts, positions)),
        *(address(one) for one in (queries, keys, values)),
        scale,
    )


def _call(name: str, line: _LineStruct, *pointers: int) -> None:
    arguments = [ctypes.addressof(line), *pointers]
    function = getattr(library(), name)
    if function(*map(ctypes.c_void_p, arguments), ctypes.c_int(torch.get_num_threads())):
        raise MemoryError("No memory is left for the scores of packed completions.")


_sdpa: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]


def _sdpa_or_packed(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """What transformers calls; `(1, H, T, D)`, and positions `(1, 1, 1, T)` for a mask.

    Raises:
        ValueError: Something is asked for that the C functions do not do.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return _sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    bent = [name for name in ("position_bias", "softcap") if others.get(name) is not None]
    if dropout or bent or key.shape != value.shape or query.shape[-2:] != key.shape[-2:]:
        raise ValueError("attention of packs is plain attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (one.transpose(1, 2).flatten(0, 1) for one in (query, key, value))
    return packed_attention(queries, keys, values, attention_mask.flatten(), scale)[None], None
