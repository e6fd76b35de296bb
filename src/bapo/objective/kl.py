"""KL divergence from the policy to the behavior policy, estimated on the behavior policy's tokens.

Write u = pi_theta / alpha for a token, d = log u, and k3 = 1/u - 1 + d: Schulman's estimator, which
is at least 0, and 0 at u = 1. All expectations are over the next token at a prefix that alpha
visited. Prefixes are not reweighted, so what is estimated is the mean per-token divergence along
alpha's own completions; policies are softmax policies and have full support.

**k3_weighted.** k3 has the mean KL(pi_theta || alpha) under samples of pi_theta. The samples are
alpha's, hence the weight u:

    f(u) = u * k3 = 1 - u + u * d
    E_alpha[f] = sum(alpha - pi + pi * log(pi / alpha)) = KL(pi_theta || alpha)

The gradient must flow through the weight. With it,

    df / d(log pi) = u * d,   E_alpha[u * d * grad log pi] = E_pi[d * grad log pi]
                                                           = grad KL(pi_theta || alpha)

and with the weight detached it would be the gradient of the other divergence:

    u * (1 - 1/u) = u - 1,    E_pi[grad log pi] - E_alpha[grad log pi] = grad KL(alpha || pi_theta)

Above the cap the weight is the constant c = w_max: the value is c * k3, the gradient c * (1 - 1/u).
For c >= 1 that is smaller than u * d but keeps its sign, so a token that has become too likely is
still pushed back. Value and gradient are unbiased as long as no token is truncated.

**k3.** The field's form: k3 without weight. Under samples of alpha its mean is no longer the
divergence but chi2(alpha || pi_theta) - KL(alpha || pi_theta); near u = 1 they agree to second
order.
"""

import math

import torch
from torch import Tensor

from bapo.objective.ratios import masked_log_ratio


def behavior_kl(
    policy_logps: Tensor,
    behavior_logps: Tensor,
    mask: Tensor,
    *,
    estimator: str,
    cap: float,
) -> Tensor:
    """Per-token estimate of KL(pi_theta || alpha); the module's docstring derives it.

    Args:
        policy_logps: `(B, T)` log-probabilities under pi_theta, with gradient.
        behavior_logps: `(B, T)` log-probabilities under alpha, as stored with the group.
        mask: `(B, T)` bool, True where the token counts.
        estimator: `k3_weighted` or `k3`.
        cap: w_max, truncation of the weight u; above 0. Not used by `k3`.

    Returns:
        `(B, T)` float32 in nats, at least 0 but for rounding; 0 at masked places.

    Raises:
        ValueError: The estimator has another name.
    """
    log_ratio = masked_log_ratio(policy_logps, behavior_logps, mask)
    if estimator == "k3":
        return _k3(log_ratio)
    if estimator != "k3_weighted":
        raise ValueError(f"Unknown KL estimator '{estimator}'; known are k3_weighted, k3.")
    # u * k3 multiplied out; log-ratios are limited, so neither arm can overflow.
    weighted = log_ratio * log_ratio.exp() - torch.expm1(log_ratio)
    return torch.where(log_ratio <= math.log(cap), weighted, cap * _k3(log_ratio))


def _k3(log_ratio: Tensor) -> Tensor:
    """`1/u - 1 + log u`; expm1 keeps the small values that matter."""
    return torch.expm1(-log_ratio) + log_ratio
