"""Total variation between a policy and the behavior policy, estimated from sampled sequences.

TV(pi, alpha) is half the L1 distance of two distributions over whole completions. All estimators
read completions that alpha sampled. With rho = pi(y) / alpha(y), the ratio of a whole completion,
and n completions:

| estimator | what is averaged | bias | spread |
|---|---|---|---|
| one-sided | max(0, 1 - rho) | none, at any length | in [0, 1]: error at most 1 / (2 sqrt n) |
| two-sided | abs(1 - rho) / 2 | none, if alpha covers pi | grows with the variance of rho |
| clipped | abs(1 - min(rho, c)) / 2 | down, half at worst | at most (c - 1) / (4 sqrt n), c >= 2 |
| Pinsker | upper bound from KL(alpha, pi) | upwards; its plug-in root downwards | that of the KL |
| token sum | sum over t of TV at a prefix, full vocabulary | upwards | small: no token is sampled |

The two sides of |1 - rho| have the same mean, as both distributions sum to one, but only the lower
side is bounded. On long completions the upper side is carried by ratios that n samples never show,
so the two-sided estimate falls to about half of the truth just where the truth nears 1, while the
one-sided one needs nothing that is not in the samples. It is the one that the bound uses.
docs/guarantee.md has the proofs, docs/figures/bound_estimators.svg the measured errors.

No estimator can be better than the log-probabilities: an error of d at every token is an error of
up to T d in log rho. Numerical agreement of engine and learner is what the probe checks.
"""

from enum import StrEnum

import torch
from torch import Tensor

EFFECTIVE_SHARE = 0.5
"""Below this share of effective samples, averages of the ratio itself are not trusted."""


class Trust(StrEnum):
    """What the completions of one group still say about the distance of two policies.

    `RATIO`: every estimator. `ONE_SIDED`: the one-sided and the clipped one, and upper bounds;
    averages of the ratio rest on too few samples. `SATURATED`: the estimate is 1 but for less than
    one sample; the policies hardly share a completion, only per-token divergences still tell one
    distance from another, and no bound on the improvement follows from any. `UNDEFINED`: a
    log-ratio is not finite.
    """

    RATIO = "ratio"
    ONE_SIDED = "one_sided"
    SATURATED = "saturated"
    UNDEFINED = "undefined"


def sequence_log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """`log numerator(y) - log denominator(y)` of whole completions.

    Not clamped: the sum of many tokens may be far from zero and still be what it is.

    Args:
        numerator: `(B, T)` log-probabilities of the sampled tokens.
        denominator: `(B, T)` likewise.
        mask: `(B, T)` bool, True where the token is the policy's own choice and counts.

    Returns:
        `(B,)` float64, summed in float64; a NaN at an unmasked place stays one.
    """
    return _difference(numerator, denominator, mask).sum(dim=-1)


def sequence_kl(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(denominator || numerator) over whole completions, one for each completion.

    With u = numerator / denominator of a token, u - 1 - log u has the mean KL under samples of the
    denominator and is never negative; by the chain rule the sum over tokens has the mean of the
    whole completion's. Unbiased; its spread grows with that of u, token by token and not with their
    product.

    Args:
        numerator: `(B, T)` log-probabilities, of pi for KL(alpha || pi).
        denominator: `(B, T)` log-probabilities under the policy that sampled the tokens.
        mask: `(B, T)` bool, True where the token counts.

    Returns:
        `(B,)` float64 in nats, at least 0 but for rounding.
    """
    difference = _difference(numerator, denominator, mask)
    return (torch.expm1(difference) - difference).sum(dim=-1)


def tv_one_sided(log_ratio: Tensor) -> Tensor:
    """Mean of max(0, 1 - rho) over the completions of each group; the module says what it is worth.

    Args:
        log_ratio: `(N, G)` log of pi(y) / alpha(y), groups x completions that alpha sampled.

    Returns:
        `(N,)` float64 in [0, 1].
    """
    return -torch.expm1(log_ratio.double().clamp(max=0.0)).mean(dim=-1)


def tv_two_sided(log_ratio: Tensor) -> Tensor:
    """Mean of |1 - rho| / 2 over the completions of each group; may be above 1, or infinite.

    Args:
        log_ratio: `(N, G)` as in `tv_one_sided`.

    Returns:
        `(N,)` float64, at least 0.
    """
    return torch.expm1(log_ratio.double()).abs().mean(dim=-1) / 2


def tv_clipped(log_ratio: Tensor, cap: float) -> Tensor:
    """Mean of |1 - min(rho, cap)| / 2 over the completions of each group.

    Args:
        log_ratio: `(N, G)` as in `tv_one_sided`.
        cap: Above 1.

    Returns:
        `(N,)` float64 in [0, max(1, cap - 1) / 2]; its mean is at most TV and at least TV / 2.

    Raises:
        ValueError: The cap is not above 1: it would count agreement as distance.
    """
    if not cap > 1:
        raise ValueError(f"The cap of the ratio must be above 1, but is {cap}.")
    return (log_ratio.double().exp().clamp(max=cap) - 1.0).abs().mean(dim=-1) / 2


def tv_pinsker(kl: Tensor) -> Tensor:
    """Upper bound on TV from a divergence, whichever way round the divergence is.

    The smaller of sqrt(KL / 2) (Pinsker) and sqrt(1 - exp(-KL)) (Bretagnolle and Huber), which
    stays below 1 where Pinsker's says nothing any more. Both roots are concave, so with an unbiased
    estimate of KL the result is biased downwards, by less the more completions there are.

    Args:
        kl: Any shape, in nats; negative estimates count as 0.

    Returns:
        The bound, of the same shape, float64 in [0, 1).
    """
    least = kl.double().clamp(min=0.0)
    return torch.minimum((least / 2).sqrt(), (-torch.expm1(-least)).sqrt())


def token_tv(first_logits: Tensor, second_logits: Tensor) -> Tensor:
    """Total variation of two next-token distributions over the full vocabulary.

    Args:
        first_logits: `(B, T, V)`, already divided by the temperature.
        second_logits: `(B, T, V)` likewise.

    Returns:
        `(B, T)` float32 in [0, 1], exact.
    """
    first = torch.softmax(first_logits, dim=-1, dtype=torch.float32)
    second = torch.softmax(second_logits, dim=-1, dtype=torch.float32)
    return (first - second).abs().sum(dim=-1) / 2


def tv_token_sum(per_token: Tensor, mask: Tensor) -> Tensor:
    """Upper bound on TV from the distances at the prefixes that alpha visited.

    Replacing one policy by the other a token at a time gives TV(pi, alpha) <= E_alpha[sum over t of
    TV of the next token]. One completion's sum is an unbiased estimate of the right-hand side;
    average it over completions and cap the mean at 1, not the other way round.

    Args:
        per_token: `(B, T)` from `token_tv`.
        mask: `(B, T)` bool, True where the token counts.

    Returns:
        `(B,)` float64, at least 0.
    """
    return torch.where(mask, per_token.double(), 0.0).sum(dim=-1)


def effective_share(log_ratio: Tensor) -> Tensor:
    """Share of each group's completions that an average of the ratio really rests on.

    (sum rho)^2 / (G sum rho^2): 1 where all ratios are equal, 1/G where one outweighs the rest. It
    is blind to what was not sampled: where every ratio is near 0 it may be high, which is why
    `trust` looks at the distance as well.

    Args:
        log_ratio: `(N, G)` as in `tv_one_sided`.

    Returns:
        `(N,)` float64 in [1 / G, 1]; NaN where a log-ratio is not finite.
    """
    scaled = (log_ratio.double() - log_ratio.double().amax(dim=-1, keepdim=True)).exp()
    return scaled.sum(dim=-1).square() / (scaled.square().sum(dim=-1) * log_ratio.shape[-1])


def trust(log_ratio: Tensor) -> list[Trust]:
    """Says for each group which estimators still mean something; see `Trust`.

    `SATURATED` where the one-sided estimate is above 1 - 1 / G: all completions together count for
    less than one under pi. `ONE_SIDED` where fewer than half of the samples are effective.

    Args:
        log_ratio: `(N, G)` as in `tv_one_sided`.
    """
    finite = torch.isfinite(log_ratio).all(dim=-1)
    saturated = tv_one_sided(log_ratio) > 1.0 - 1.0 / log_ratio.shape[-1]
    thin = effective_share(log_ratio) < EFFECTIVE_SHARE
    rows = zip(finite.tolist(), saturated.tolist(), thin.tolist(), strict=True)
    return [_trust_of(*row) for row in rows]


def _trust_of(is_finite: bool, is_saturated: bool, is_thin: bool) -> Trust:
    if not is_finite:
        return Trust.UNDEFINED
    if is_saturated:
        return Trust.SATURATED
    return Trust.ONE_SIDED if is_thin else Trust.RATIO


def _difference(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """Per-token log-ratio in float64, zero where masked; masked places may hold anything."""
    difference = numerator.detach().double() - denominator.detach().double()
    return torch.where(mask, difference, 0.0)
