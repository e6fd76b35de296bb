"""A lower bound on the improvement of one training step, prompt by prompt (docs/guarantee.md).

For rewards in [0, 1], three policies pi, pi_t, alpha, and any normaliser s in (0, 1]:

    J(pi) - J(pi_t) >= L - K TV(pi, alpha) - TV(pi_t, alpha)
    L = (J(pi) - J(alpha)) / s,    K = (1 - s) / s

Proof: J(pi) - J(alpha) = s L = L - (1 - s) L = L - K (J(pi) - J(alpha)) >= L - K TV(pi, alpha),
and J(alpha) - J(pi_t) >= - TV(pi_t, alpha), because two policies cannot differ in the mean of
something in [0, 1] by more than their total variation.

arXiv 2602.20722 (Theorem 3.2) and arXiv 2505.22257 have s = sigma, the deviation of the rewards
under alpha, and a factor 2 on both distances. Departures: the factor is 1 (`TIGHT`); with 2
(`PUBLISHED`) the right-hand side is never above 0, since sigma <= 1/2 for rewards in [0, 1], so
that it can bound a decline but not promise an improvement. And s is the deviation of the group's
own scores, for which the statement holds just as well: K is bounded by the filter and the bands for
the group's deviation, never for the unknown one of alpha.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bapo.config import AdaptationSettings
from bapo.objective.divergence import tv_one_sided
from bapo.types import Source

TIGHT = 1.0
"""Factor of both distances that the proof needs."""

PUBLISHED = 2.0
"""Factor of both distances in the papers."""


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """The terms of the bound, estimated for each group.

    A group without variance has no normaliser, and its terms are NaN: it has no gradient either.

    Attributes:
        sigma: `(N,)` population deviation of the group's own scores, in [0, 1/2].
        surrogate: `(N,)` L.
        factor: `(N,)` K, at least 1.
        policy_tv: `(N,)` TV(pi, alpha), in [0, 1].
        behavior_tv: `(N,)` TV(pi_t, alpha), in [0, 1].
    """

    sigma: Tensor
    surrogate: Tensor
    factor: Tensor
    policy_tv: Tensor
    behavior_tv: Tensor

    def penalty(self, form: float = TIGHT) -> Tensor:
        """`(N,)` what is taken off L: form * (K TV(pi, alpha) + TV(pi_t, alpha))."""
        return form * (self.factor * self.policy_tv + self.behavior_tv)

    def total(self, form: float = TIGHT) -> Tensor:
        """`(N,)` the lower bound on J(pi) - J(pi_t)."""
        return improvement_bound(
            self.surrogate, self.factor, self.policy_tv, self.behavior_tv, form=form
        )

    def direct(self) -> Tensor:
        """`(N,)` J(pi) - J(alpha) - TV(pi_t, alpha): the bound with s = 1.

        The terms themselves make it at least `total`; their estimates may cross.
        """
        return self.sigma * self.surrogate - self.behavior_tv


def improvement_bound(
    surrogate: Tensor,
    factor: Tensor,
    policy_tv: Tensor,
    behavior_tv: Tensor,
    *,
    form: float = TIGHT,
) -> Tensor:
    """L - form * K * TV(pi, alpha) - form * TV(pi_t, alpha).

    Args:
        surrogate: L, any shape; the others broadcast to it.
        factor: K, at least 0.
        policy_tv: TV(pi, alpha), in [0, 1].
        behavior_tv: TV(pi_t, alpha), in [0, 1].
        form: `TIGHT` or `PUBLISHED`.
    """
    return surrogate - form * factor * policy_tv - form * behavior_tv


def penalty_factor(sigma: Tensor) -> Tensor:
    """K = (1 - sigma) / sigma; infinite at 0.

    Args:
        sigma: The normaliser of the advantage, in [0, 1].
    """
    return (1.0 - sigma) / sigma


def reward_deviation(rewards: Tensor) -> Tensor:
    """Population deviation of the rewards of each group, exactly 0 where all are equal.

    Args:
        rewards: `(N, G)` groups x completions, in [0, 1].

    Returns:
        `(N,)` float64 in [0, 1/2].

    Raises:
        ValueError: A reward lies outside [0, 1] or is NaN; the bound says nothing then.
    """
    exact = rewards.double()
    if not bool(((exact >= 0) & (exact <= 1)).all()):
        raise ValueError("The bound is for rewards in [0, 1]; a reward lies outside.")
    deviation = (exact - exact.mean(dim=-1, keepdim=True)).square().mean(dim=-1).sqrt()
    return deviation.masked_fill((exact == exact[:, :1]).all(dim=-1), 0.0)


def expected_gain(log_ratio: Tensor, rewards: Tensor, *, cap: float = math.inf) -> Tensor:
    """Estimate of J(pi) - J(alpha): the mean of (min(rho, cap) - 1) r over each group.

    Without a cap it is unbiased for groups that are not selected by their outcome, with a spread
    that follows that of rho. A cap takes away from J(pi) only, as r >= 0: the estimate's mean is
    then at most J(pi) - J(alpha), which keeps a lower bound one, and its error is at most
    cap / (2 sqrt G). Centring r as the advantage does would lose that, and would shrink
    the mean by (G - 1) / G.

    Args:
        log_ratio: `(N, G)` log of pi(y) / alpha(y), of completions that alpha sampled.
        rewards: `(N, G)` in [0, 1].
        cap: Above 0.

    Returns:
        `(N,)` float64 in [-1, cap - 1].
    """
    exact = rewards.double()
    gain = torch.expm1(log_ratio.double()).clamp(max=cap - 1.0)
    return torch.where(exact > 0, gain * exact, 0.0).mean(dim=-1)


def group_bounds(
    policy_log_ratio: Tensor, proximal_log_ratio: Tensor, rewards: Tensor, *, cap: float
) -> GroupBounds:
    """The bound's terms for each group, from the group's own completions.

    Args:
        policy_log_ratio: `(N, G)` log of pi(y) / alpha(y), groups x completions.
        proximal_log_ratio: `(N, G)` log of pi_t(y) / alpha(y).
        rewards: `(N, G)` in [0, 1], the scores that the advantages come from.
        cap: Where the ratio is truncated in L; above 0.

    Returns:
        The terms, float64.

    Raises:
        ValueError: The shapes differ, or a reward lies outside [0, 1].
    """
    shapes = {policy_log_ratio.shape, proximal_log_ratio.shape, rewards.shape}
    if len(shapes) != 1 or rewards.dim() != 2:
        raise ValueError(f"Ratios and rewards must share one shape (N, G), not {sorted(shapes)}.")
    sigma = reward_deviation(rewards)
    known = torch.where(sigma > 0, sigma, torch.nan)
    return GroupBounds(
        sigma=sigma,
        surrogate=expected_gain(policy_log_ratio, rewards, cap=cap) / known,
        factor=penalty_factor(known),
        policy_tv=tv_one_sided(policy_log_ratio),
        behavior_tv=tv_one_sided(proximal_log_ratio),
    )


def worst_penalty_factor(
    group_size: int, low: float, high: float, *, low_is_open: bool = False
) -> float | None:
    """The largest K of a group of 0/1 rewards whose correctness rate lies in an interval.

    Rates are k / G, and groups that are all right or all wrong are never in. The deviation
    sqrt(mu (1 - mu)) is smallest at one of the two ends.

    Args:
        group_size: G, at least 2.
        low: Lower end of the interval, in [0, 1].
        high: Upper end, in [low, 1].
        low_is_open: Whether `low` itself lies outside.

    Returns:
        K, or None where no group can lie in the interval.
    """
    margin = 1e-9  # as the reuse band's: an end is computed, a rate is k / G
    rates = [
        count / group_size
        for count in range(1, group_size)
        if low - margin <= count / group_size <= high + margin
        and not (low_is_open and count / group_size <= low)
    ]
    if not rates:
        return None
    sigma = min(math.sqrt(rate * (1.0 - rate)) for rate in (rates[0], rates[-1]))
    return (1.0 - sigma) / sigma


def worst_penalty_factors(
    settings: AdaptationSettings, group_size: int, band: tuple[float, float]
) -> Mapping[Source, float | None]:
    """The largest K that each source lets into a batch, for scores that are 0 or 1.

    Args:
        settings: The filter, c1 and the rule for retried groups.
        group_size: G, at least 2.
        band: c2 and c3 as they are now.

    Returns:
        For each source K; infinity where groups without variance enter (they have no gradient, and
        no bound); None where no group can enter.
    """
    above_c1 = settings.retry_accept == "above_c1"
    retried_low = settings.hard_threshold if above_c1 else 0.0
    fresh = worst_penalty_factor(group_size, 0.0, 1.0)
    return {
        Source.FRESH: fresh if settings.filter_fresh else math.inf,
        Source.RETRIED: worst_penalty_factor(group_size, retried_low, 1.0, low_is_open=True)
        if settings.retry
        else None,
        Source.REUSED: worst_penalty_factor(group_size, *band) if settings.reuse else None,
    }
