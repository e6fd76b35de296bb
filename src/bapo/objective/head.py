"""Log-probabilities straight from a model's last hidden states, without the logits of all tokens.

The logits of a batch are its largest tensor by far where the vocabulary is large: 16,384 tokens of
151,936 words in float32 are 10 GB, and as much again for the gradient. Here they are made for a
chunk of tokens at a time, and once more in the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bapo.objective.logps import TokenLogps, token_logps

HEAD_CHUNK_ELEMENTS = 1 << 26
"""Logits made at once, 256 MiB in float32: 441 tokens of 151,936 words."""


def head_logps(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    temperatures: Tensor | float = 1.0,
    *,
    entropy: bool = True,
    chunk_elements: int = HEAD_CHUNK_ELEMENTS,
) -> TokenLogps:
    """`token_logps` of `hidden @ weight.T + bias`, one token a row.

    Up to `chunk_elements` logits are made at once and kept for the backward pass. More are made
    chunk by chunk, twice; only `hidden` is kept. Under autocast the product is computed in its
    number type. The upstream gradient of a token that is exactly zero gives exactly zero.

    Args:
        hidden: `(M, H)` tokens x hidden size.
        weight: `(V, H)` vocabulary x hidden size.
        bias: `(V,)` or None.
        token_ids: `(M,)` integers in [0, V).
        temperatures: As for `token_logps`: a number, or `(M,)`.
        entropy: Whether entropies are wanted; without, they are NaN.
        chunk_elements: Logits made at once; at least one token's vocabulary is.

    Returns:
        `(M,)` log-probabilities, with the gradient of `hidden`, `weight` and `bias`, and entropies.
    """
    step = max(1, chunk_elements // len(weight))
    if len(hidden) <= step:
        logits = functional.linear(hidden, weight, bias)[:, None]
        found = token_logps(logits, token_ids[:, None], temperatures, entropy=entropy)
        return TokenLogps(found.logps[:, 0], found.entropy[:, 0])
    if not isinstance(temperatures, Tensor):
        temperatures = torch.full((len(hidden),), float(temperatures), device=hidden.device)
    kind = hidden.device.type
    product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return TokenLogps(
        *_ChunkedHead.apply(hidden, weight, bias, token_ids, temperatures, product, step, entropy)
    )


class _ChunkedHead(torch.autograd.Function):
    """The head's product and `token_logps` of it, a chunk of tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        temperatures: Tensor,
        product: torch.dtype,
        step: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, bias, token_ids, temperatures)
        ctx.product, ctx.step = product, step
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        entropies = torch.full_like(logps, torch.nan)
        head = _cast((weight, bias), product)
        for part in _parts(len(hidden), step):
            logits = _logits(hidden[part], head, product)
            found = token_logps(logits, token_ids[part, None], temperatures[part], entropy=entropy)
            logps[part], entropies[part] = found.logps[:, 0], found.entropy[:, 0]
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_logps: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, temperatures = ctx.saved_tensors
        head = _cast((weight, bias), ctx.product)
        into_hidden = torch.empty_like(hidden)
        # A head is frozen where an adapter is trained; its gradient would cost a third of the pass.
        of_weight, of_bias = ctx.needs_input_grad[1:3]
        into_weight = torch.zeros_like(weight) if of_weight else None
        into_bias = torch.zeros_like(bias) if of_bias else None
        for part in _parts(len(hidden), ctx.step):
            with torch.enable_grad():
                logits = _logits(hidden[part], head, ctx.product).detach().requires_grad_()
                found = token_logps(
                    logits, token_ids[part, None], temperatures[part], entropy=False
                )
            (slope,) = torch.autograd.grad(found.logps, logits, grad_logps[part, None])
            slope = slope[:, 0]
            into_hidden[part] = slope @ head[0]
            if into_weight is not None:
                into_weight += slope.T @ hidden[part].to(slope.dtype)
            if into_bias is not None:
                into_bias += slope.sum(dim=0)
        return into_hidden, into_weight, into_bias, None, None, None, None, None


def _cast(head: tuple[Tensor, Tensor | None], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    weight, bias = head
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _logits(hidden: Tensor, head: tuple[Tensor, Tensor | None], dtype: torch.dtype) -> Tensor:
    """`(M, 1, V)` of a chunk."""
    return functional.linear(hidden.to(dtype), *head)[:, None]


def _parts(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]
