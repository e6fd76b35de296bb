"""Log-probabilities of the sampled tokens, in float32 and without a second copy of the logits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ELEMENTS = 1 << 22
"""Logits turned into float32 at once, 16 MiB; 256 completions x 32 tokens x 32 fill a sixteenth."""


@dataclass(frozen=True, slots=True)
class TokenLogps:
    """What a forward pass says about the tokens of a batch.

    Attributes:
        logps: `(B, T)` float32, log-probability of each token; carries the gradient of the logits.
        entropy: `(B, T)` float32 in nats, 0 to log V: entropy of the distribution that each token
            comes from; no gradient.
    """

    logps: Tensor
    entropy: Tensor


def token_logps(
    logits: Tensor,
    token_ids: Tensor,
    temperature: Tensor | float = 1.0,
    *,
    entropy: bool = True,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenLogps:
    """Log-probability of each token, and the entropy, under `softmax(logits / temperature)`.

    Works in float32 whatever the number type of the logits, over chunks of rows and tokens, and
    recomputes the softmax in the backward pass: beside the logits and their gradient, both in the
    model's number type, only the float32 intermediates of one chunk are held. The gradient of a
    token whose upstream gradient is zero is exactly zero, so logits at padded places may hold NaN
    or inf.

    Args:
        logits: `(B, T, V)` completions x tokens x vocabulary; position t predicts token t. A slice
            of a larger tensor is not copied.
        token_ids: `(B, T)` integers in [0, V), at padded places too.
        temperature: The temperature at which the tokens were sampled, above 0: a number, or `(B,)`,
            one for each row.
        entropy: Whether entropies are wanted; without, they are NaN.
        chunk_elements: Logits processed at once; at least one token's vocabulary is.

    Returns:
        Log-probabilities and entropies; at padded places both are whatever the logits there give.

    Raises:
        ValueError: The shapes do not fit one another, or a temperature given as a number is not
            above 0.
    """
    if logits.dim() != 3 or token_ids.shape != logits.shape[:2]:
        shapes = f"{tuple(logits.shape)} and {tuple(token_ids.shape)}"
        raise ValueError(f"Logits (B, T, V) and token ids (B, T) do not fit: {shapes}.")
    scale = _temperature_column(temperature, logits)
    return TokenLogps(
        *_SelectedLogSoftmax.apply(logits, token_ids[..., None], scale, chunk_elements, entropy)
    )


def _temperature_column(temperature: Tensor | float, logits: Tensor) -> Tensor | None:
    """The temperatures as `(B, 1, 1)` float32, or None where all are 1 and need no division."""
    rows = len(logits)
    if isinstance(temperature, Tensor):
        if temperature.shape not in ((), (rows,)):
            given = tuple(temperature.shape)
            raise ValueError(f"Temperatures must have the shape ({rows},), not {given}.")
        return temperature.detach().to(logits.device, torch.float32).expand(rows)[:, None, None]
    if not temperature > 0:
        raise ValueError(f"The temperature must be above 0, but is {temperature}.")
    if temperature == 1.0:
        return None
    return torch.full((rows, 1, 1), temperature, dtype=torch.float32, device=logits.device)


class _SelectedLogSoftmax(torch.autograd.Function):
    """Gathered log-softmax and entropy, in chunks, keeping only the logits for the backward."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        index: Tensor,
        scale: Tensor | None,
        budget: int,
        wants_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, index, scale)
        ctx.budget = budget
        logps = torch.empty(logits.shape[:2], dtype=torch.float32, device=logits.device)
        entropy = torch.full_like(logps, torch.nan)
        for part in _chunks(logits, budget):
            log_softmax = torch.log_softmax(_scaled(logits, scale, part), -1, dtype=torch.float32)
            logps[part] = log_softmax.gather(-1, index[part]).squeeze(-1)
            if not wants_entropy:
                continue
            # An impossible token (log-probability -inf) adds nothing; 0 * -inf would be NaN.
            finite = log_softmax.clamp(min=torch.finfo(torch.float32).min)
            entropy[part] = log_softmax.exp_().mul_(finite).sum(dim=-1).neg_()
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_logps: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        logits, index, scale = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for part in _chunks(logits, ctx.budget):
            upstream = grad_logps[part].unsqueeze(-1)
            if scale is not None:
                upstream = upstream / scale[part[0]]
            slope = torch.softmax(_scaled(logits, scale, part), -1, dtype=torch.float32)
            slope.mul_(-upstream).scatter_add_(-1, index[part], upstream)
            grad[part] = slope.masked_fill_(upstream == 0, 0.0)
        return grad, None, None, None, None


def _chunks(logits: Tensor, budget: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows x tokens of at most `budget` logits: whole rows where one fits."""
    rows, length, vocabulary = logits.shape
    tokens = max(1, budget // max(1, vocabulary))
    row_step = max(1, tokens // max(1, length))
    token_step = max(1, min(length, tokens))
    for row in range(0, rows, row_step):
        for token in range(0, length, token_step):
            yield slice(row, row + row_step), slice(token, token + token_step)


def _scaled(logits: Tensor, scale: Tensor | None, part: tuple[slice, slice]) -> Tensor:
    """The logits of one chunk over their temperature, which is divided by in float32."""
    return logits[part] if scale is None else logits[part].float() / scale[part[0]]
