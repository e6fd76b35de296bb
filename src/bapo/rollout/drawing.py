"""Draws tokens from logits by inverting the cumulative distribution."""

import torch
from torch import Tensor

# Numbers of the vocabulary whose probabilities are summed before any of them is looked at.
_BLOCK = 128
# Logits worked on at once; bounds the memory for large vocabularies.
_DRAW_NUMBERS = 1 << 24


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draws one token per row.

    The token is the first whose cumulative probability, in the order of the vocabulary, exceeds the
    uniform. A large vocabulary is searched in two steps, first for the block of tokens and then
    inside it, so that nothing of its size is summed or held in float64.

    Args:
        logits: `(R, V)`, of any floating type.
        uniforms: `(R,)` float64 in [0, 1).
        temperature: Above 0.

    Returns:
        `(R,)` token ids and their `(R,)` float32 log-probabilities at that temperature. A token of
        probability 0 is never drawn.
    """
    rows, vocabulary = logits.shape
    step = max(1, _DRAW_NUMBERS // vocabulary)
    if rows > step:
        parts = [
            draw_tokens(logits[start : start + step], uniforms[start : start + step], temperature)
            for start in range(0, rows, step)
        ]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    logps = torch.log_softmax(logits.float() / temperature, dim=-1)
    probabilities = logps.exp()
    if vocabulary <= 2 * _BLOCK:
        tokens = _first_above(probabilities, uniforms)[0]
    else:
        tokens = _first_above_in_blocks(probabilities, uniforms)
    return tokens, logps.gather(1, tokens[:, None])[:, 0]


def _first_above(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where `(R, K)` weights, summed from the left, exceed a share of their sum.

    Returns:
        `(R,)` columns, of weight above 0, and which `(R,)` share of that column's own weight is
        still to be filled, in [0, 1).
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Rounding may lift the product to the total itself, behind which there is no token.
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniforms[:, None] * total, below)
    column = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)
    own = weights.gather(1, column).double()
    before = cumulative.gather(1, column) - own
    return column[:, 0], ((target - before) / own).clamp_(0.0, 1.0)[:, 0]


def _first_above_in_blocks(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """`_first_above` over blocks, then inside the block found; `(R,)` columns."""
    rows, vocabulary = probabilities.shape
    missing = -vocabulary % _BLOCK
    blocks = torch.nn.functional.pad(probabilities, (0, missing)).view(rows, -1, _BLOCK)
    block, left = _first_above(blocks.sum(dim=-1, dtype=torch.float64), uniforms)
    inside = blocks[torch.arange(rows, device=block.device), block]
    return block * _BLOCK + _first_above(inside, left)[0]
