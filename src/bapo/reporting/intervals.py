"""Confidence intervals of accuracies, over prompts.

The samples of one prompt are not independent, so the prompt is the unit everywhere.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_Z = 1.959963984540054  # the 97.5 % point of the normal distribution
_BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval."""

    low: float
    high: float


def wilson(successes: float, trials: float) -> Interval:
    """The 95 % Wilson score interval of a proportion.

    Args:
        successes: From 0 to `trials`; need not be whole.
        trials: Above 0; an effective number need not be whole.
    """
    share = successes / trials
    centre = share + _Z**2 / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    scale = 1 + _Z**2 / trials
    low = 0.0 if successes <= 0 else (centre - spread) / scale
    high = 1.0 if successes >= trials else (centre + spread) / scale
    return Interval(max(low, 0.0), min(high, 1.0))


def accuracy_interval(rates: FloatArray, samples: int) -> Interval | None:
    """The 95 % interval of the mean correctness rate over prompts.

    A Wilson interval with the effective number of samples, p (1 - p) / SE^2 with SE the standard
    error over prompts; it stays honest where nearly all prompts are wrong, where an interval of the
    mean plus or minus 1.96 SE does not.

    Args:
        rates: `(N,)` the share of correct samples of each prompt, in [0, 1].
        samples: K, samples per prompt; the effective number lies between N and N K.

    Returns:
        None for fewer than two prompts.
    """
    prompts = len(rates)
    if prompts < 2:
        return None
    mean = float(rates.mean())
    variance = float(rates.var(ddof=1)) / prompts
    effective = mean * (1 - mean) / variance if variance > 0 else 0.0
    effective = min(max(effective, prompts), prompts * samples)
    return wilson(mean * effective, effective)


def ratio_interval(before: FloatArray, after: FloatArray) -> Interval | None:
    """The 95 % bootstrap interval of mean(after) / mean(before), prompts resampled in pairs.

    Args:
        before: `(N,)` correctness rates of the base, one per prompt.
        after: `(N,)` those of the trained policy, prompts in the same order.

    Returns:
        None for fewer than two prompts, or where a resampled base has nothing right, so that there
        is no ratio.
    """
    prompts = len(before)
    if prompts < 2:
        return None
    generator = np.random.default_rng(0)
    rows = generator.integers(0, prompts, size=(_BOOTSTRAP_DRAWS, prompts))
    below = before[rows].mean(axis=1)
    if not below.all():
        return None
    low, high = np.quantile(after[rows].mean(axis=1) / below, [0.025, 0.975])
    return Interval(float(low), float(high))
