"""The policy's strength r, and the band of correctness rates [c2, c3] that may be reused.

Departures from the paper (arXiv 2602.20722), which gives c_i = r * (c_i_high - c_i_low) + c_i_low
and never says how r is measured: here r is a running mean of the fresh groups' correctness rates,
with a half-life in steps. The bands of the released code, a fixed one and one that falls as the
policy grows stronger, are settings beside the paper's rising one. The paper's numbers suit G = 8; a
band that no rate k/G of a smaller group can hit is widened to the nearest one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bapo.config import AdaptationSettings

# A bound of the band is computed, a correctness rate is k/G: without this a rate that lies on the
# bound could fall outside it by a rounding error. Far below any 1/G.
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Band:
    """A closed interval of correctness rates.

    Attributes:
        low: c2, in [0, 1].
        high: c3, in [low, 1].
    """

    low: float
    high: float

    def contains(self, rate: float) -> bool:
        """Whether `rate` lies in the band, its two bounds included."""
        return self.low - _TOLERANCE <= rate <= self.high + _TOLERANCE

    def widened(self, group_size: int) -> "Band":
        """The band itself, or up to the nearest rate that groups of a size can have.

        Rates are k/G. A small group has few of them, and a band between two would reuse nothing:
        with G = 2 the only informative rate is 1/2, which the paper's band holds at r = 1 alone.

        Args:
            group_size: G, at least 2.
        """
        rates = [right / group_size for right in range(1, group_size)]
        if any(self.contains(rate) for rate in rates):
            return self
        nearest = min(rates, key=lambda rate: max(self.low - rate, rate - self.high))
        return Band(min(self.low, nearest), max(self.high, nearest))


def reuse_band(settings: AdaptationSettings, strength: float) -> Band:
    """The reuse band of a policy of the given strength.

    Args:
        settings: Name the band and its ends.
        strength: r, in [0, 1].

    Returns:
        `rising`: from the first to the second value of each range as r goes from 0 to 1. `fixed`:
        the fixed band. `falling`: from the falling start to the fixed band as r goes through
        `reuse_falling_rates`; constant outside.
    """
    if settings.band == "fixed":
        return Band(*settings.reuse_fixed)
    if settings.band == "rising":
        return Band(
            _between(*settings.reuse_low_range, strength),
            _between(*settings.reuse_high_range, strength),
        )
    weak, strong = settings.reuse_falling_rates
    share = min(max((strength - weak) / (strong - weak), 0.0), 1.0)
    return Band(
        _between(settings.reuse_falling_start[0], settings.reuse_fixed[0], share),
        _between(settings.reuse_falling_start[1], settings.reuse_fixed[1], share),
    )


def _between(start: float, end: float, share: float) -> float:
    """Linear interpolation that is exact at both ends."""
    return (1.0 - share) * start + share * end


class PolicyStrength:
    """r: an exponential running mean, over steps, of the fresh groups' mean correctness rate.

    The first step with verified groups sets r; every later one moves it, so that after `half_life`
    such steps an old value counts half. A step without verified groups leaves it alone. Before the
    first observation the policy counts as weak: r = 0. A checkpoint keeps the one number.
    """

    def __init__(self, half_life: float) -> None:
        """Starts without an observation.

        Args:
            half_life: Steps, above 0.
        """
        self._keep = 0.5 ** (1.0 / half_life)
        self._mean: float | None = None

    @property
    def value(self) -> float:
        """r, in [0, 1]."""
        return 0.0 if self._mean is None else self._mean

    def observe(self, rates: Sequence[float]) -> None:
        """Takes in one step.

        Args:
            rates: The correctness rates of the step's verified fresh groups; may be empty.
        """
        if not rates:
            return
        mean = sum(rates) / len(rates)
        self._mean = (
            mean if self._mean is None else self._mean + (1 - self._keep) * (mean - self._mean)
        )

    def state_dict(self) -> dict[str, Any]:
        """The state as a plain tree."""
        return {"mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state that `state_dict` gave."""
        mean = state["mean"]
        self._mean = None if mean is None else float(mean)
