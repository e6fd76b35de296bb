"""Metrics of several seeds on common steps, few enough to draw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bapo.reporting.runs import RunRecord

FloatArray = npt.NDArray[np.float64]

MOST_POINTS = 160
"""Longer series are drawn as means over equal stretches of steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """A metric over the steps that every seed has reached.

    Attributes:
        steps: `(P,)` the middle of each stretch of steps.
        mean: `(P,)` mean over the seeds; NaN where no seed has a value.
        low: `(P,)` smallest value of a seed.
        high: `(P,)` largest.
        stretch: Steps that one point is the mean of.
    """

    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    stretch: int

    @property
    def exists(self) -> bool:
        """Whether any value was measured."""
        return bool(np.isfinite(self.mean).any())


def over_seeds(runs: Sequence[RunRecord], columns: Sequence[FloatArray]) -> Series:
    """Puts one column per run on common steps.

    Args:
        runs: The seeds.
        columns: For each run `(S,)` values over its steps, NaN where there is none.
    """
    length = min((len(column) for column in columns), default=0)
    stretch = max(1, -(-length // MOST_POINTS))
    steps = runs[0].column("step")[:length] if runs else np.zeros(0)
    seeds = [binned(column[:length], stretch) for column in columns]
    table = np.stack(seeds) if seeds else np.zeros((0, 0))
    return Series(
        binned(steps, stretch),
        ignoring_gaps(np.mean, table),
        ignoring_gaps(np.min, table),
        ignoring_gaps(np.max, table),
        stretch,
    )


def metric_over_seeds(runs: Sequence[RunRecord], name: str) -> Series:
    """One metric of metrics.jsonl over the seeds."""
    return over_seeds(runs, [run.column(name) for run in runs])


def binned(values: FloatArray, stretch: int) -> FloatArray:
    """`(ceil(S / stretch),)` means of `stretch` values each, gaps left out."""
    if stretch == 1 or not len(values):
        return values
    padding = -len(values) % stretch
    padded = np.append(values, np.full(padding, np.nan)).reshape(-1, stretch)
    return ignoring_gaps(np.mean, padded.T)


def ignoring_gaps(reduce: Callable[..., Any], table: FloatArray) -> FloatArray:
    """`(P,)` from `(R, P)`: `reduce` over each column without its NaNs; NaN if nothing is left."""
    masked = np.ma.masked_invalid(table)
    if not masked.size:
        return np.zeros(0)
    return np.ma.filled(reduce(masked, axis=0), np.nan)
