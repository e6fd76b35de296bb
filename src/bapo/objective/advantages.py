"""Advantages relative to a group (GRPO, arXiv 2402.03300)."""

import torch
from torch import Tensor


def group_advantages(scores: Tensor, *, scale: bool, epsilon: float) -> Tensor:
    """How much better each completion scored than the others of its group.

    `A = (r - mean(r)) / (std(r) + epsilon)` inside each group, with the population standard
    deviation; without `scale`, `A = r - mean(r)` (arXiv 2503.20783). TRL divides by the sample
    standard deviation plus 1e-4 instead.

    A group whose scores are all equal gets exactly zero. That is decided by comparing the scores
    and not by the arithmetic: the mean of equal values need not be that value, and divided by
    `epsilon` the rounding error would pass for an advantage.

    Args:
        scores: `(N, G)` groups x completions, finite.
        scale: Divide by the standard deviation.
        epsilon: Added to the standard deviation; above 0.

    Returns:
        `(N, G)` float32, computed in float64.

    Raises:
        ValueError: `scores` is not a matrix, or holds a value that is not finite; one NaN would
            spread over its group.
    """
    if scores.dim() != 2:
        raise ValueError(
            f"Scores must have the shape (groups, completions), not {tuple(scores.shape)}."
        )
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("A score is not finite; leave groups with unverified completions out.")
    exact = scores.double()
    centred = exact - exact.mean(dim=1, keepdim=True)
    if scale:
        deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
        centred = centred / (deviation + epsilon)
    equal = (scores == scores[:, :1]).all(dim=1, keepdim=True)
    return centred.masked_fill(equal, 0.0).float()
