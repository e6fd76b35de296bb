"""Ratios between policies, made so that no log-probability can overflow them.

Three policies appear (decoupled form, arXiv 2110.00641): the behavior policy alpha sampled the
tokens, the proximal policy pi_t stood at the start of the step, the policy pi_theta is being
updated.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 before exp; a token beyond it (a factor of 5e8) has a finite loss
and no gradient."""


@dataclass(frozen=True, slots=True)
class ImportanceWeights:
    """Truncated importance weights.

    Attributes:
        weights: `(B, T)` float32 in [0, cap], no gradient; 1 at masked places and in rows sampled
            by pi_t itself.
        truncated: `(B, T)` bool, where the weight was above the cap.
    """

    weights: Tensor
    truncated: Tensor


def masked_log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """`log numerator - log denominator`, clamped, and zero where masked.

    What stands at masked places, NaN and infinities included, reaches neither the value nor the
    gradient. A NaN at an unmasked place stays one: it must stop the step and not hide. So does the
    difference of two equal infinities.

    Args:
        numerator: `(B, T)` log-probabilities; the gradient flows through these.
        denominator: `(B, T)` log-probabilities; taken as constants.
        mask: `(B, T)` bool, True where the token counts.

    Returns:
        `(B, T)` float32 in [-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT].
    """
    difference = numerator.float() - denominator.detach().float()
    zero = torch.zeros((), dtype=torch.float32, device=difference.device)
    return torch.where(mask, difference, zero).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def importance_weights(
    proximal_logps: Tensor,
    behavior_logps: Tensor,
    mask: Tensor,
    *,
    sampled_by_proximal: Tensor,
    cap: float,
) -> ImportanceWeights:
    """`w = min(pi_t / alpha, cap)` for each token: corrects for tokens sampled by older weights.

    Truncation bounds the variance and biases towards the behavior policy (arXiv 1802.01561). In
    rows that pi_t itself sampled, w is 1 by definition; the recomputed log-probabilities differ
    from the stored ones by rounding only.

    Args:
        proximal_logps: `(B, T)` log-probabilities under pi_t.
        behavior_logps: `(B, T)` log-probabilities under alpha, as stored with the group.
        mask: `(B, T)` bool, True where the token counts.
        sampled_by_proximal: `(B,)` bool, True where alpha = pi_t.
        cap: w_max, above 0.

    Returns:
        The weights and where they were truncated.
    """
    corrected = mask & ~sampled_by_proximal[:, None]
    log_ratio = masked_log_ratio(proximal_logps.detach(), behavior_logps, corrected)
    truncated = corrected & (log_ratio > math.log(cap))
    weights = torch.where(corrected, log_ratio.exp().clamp(max=cap), torch.ones_like(log_ratio))
    return ImportanceWeights(weights, truncated)
