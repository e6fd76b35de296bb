"""The lower bound on each step's improvement against the improvement that was measured."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from bapo.reporting.figures.series import Series, metric_over_seeds, over_seeds
from bapo.reporting.figures.style import FIGURE_WIDTH, Look, Picture, drawing, picture, step_axis
from bapo.reporting.measures import held_out_points
from bapo.reporting.runs import RunRecord
from bapo.reporting.text import decimal
from bapo.reporting.variants import Variant

FloatArray = npt.NDArray[np.float64]

_SOURCES = ("fresh", "retried", "reused")
_DISTANCES = {"tv_policy": "-", "tv_behavior": ":"}


BOUND_CAPTION = (
    "An estimated lower bound on what each step gains on the prompts of its batch, against the "
    "gain per step between two evaluations on held-out prompts. The bound speaks of other prompts "
    "than the measurement, and is estimated from a few completions a prompt. Below zero it limits "
    "a loss and promises nothing; a total variation near 1 leaves nothing to promise."
)


def batch_bound(run: RunRecord) -> FloatArray:
    """`(S,)` the bound of each step, sources weighted by their groups; NaN without any."""
    bounds = np.stack([run.column(f"bound_total_{source}") for source in _SOURCES])
    groups = np.stack([run.column(f"groups_{source}") for source in _SOURCES])
    weights = np.where(np.isfinite(bounds), np.nan_to_num(groups), 0.0)
    total = weights.sum(axis=0)
    summed = (weights * np.nan_to_num(bounds)).sum(axis=0)
    return np.divide(summed, total, out=np.full_like(summed, np.nan), where=total > 0)


def measured_improvement(run: RunRecord) -> FloatArray:
    """`(S,)` held-out pass@1 gained per step, between the evaluations around it; NaN outside."""
    steps = run.column("step")
    gains = np.full_like(steps, np.nan)
    points = held_out_points(run)
    for before, after in pairwise(points):
        between = (steps > before.step) & (steps <= after.step)
        gains[between] = (after.pass_at_1 - before.pass_at_1) / (after.step - before.step)
    return gains


def guarantee_figure(variants: Sequence[Variant], styles: Mapping[str, Look]) -> Picture | None:
    """Two panels: bound and measured improvement a step, and the distances that the bound pays for.

    None if no run has measured a bound.
    """
    bounds = {
        variant.label: over_seeds(variant.runs, [batch_bound(run) for run in variant.runs])
        for variant in variants
    }
    if not any(series.exists for series in bounds.values()):
        return None
    words = []
    with drawing(FIGURE_WIDTH, 3.9) as figure:
        left, right = figure.subplots(1, 2)
        for variant in variants:
            gains = over_seeds(variant.runs, [measured_improvement(run) for run in variant.runs])
            words.append(_draw_pair(left, variant, bounds[variant.label], gains, styles))
            for name, line in _DISTANCES.items():
                _draw_line(right, metric_over_seeds(variant.runs, name), styles, variant, line)
        left.axhline(0.0, color="#687382", lw=1)
        left.set_title("improvement of a step: bound (thin) and measured (thick)")
        left.set_ylabel("expected reward")
        right.set_title("distance to the samples: after (line), before (dots)")
        right.set_ylabel("total variation")
        right.set_ylim(0, 1)
        for axes in (left, right):
            step_axis(axes)
        if len(variants) > 1:
            handles = [
                left.plot([], [], color=styles[one.label].colour, label=one.label)[0]
                for one in variants
            ]
            figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5))
        return picture(figure, "Lower bounds on each step's improvement. " + " ".join(words))


def _draw_pair(
    axes: Axes, variant: Variant, bound: Series, gains: Series, styles: Mapping[str, Look]
) -> str:
    """The bound of a variant and what was measured; gives both in words."""
    look = styles[variant.label]
    _draw_line(axes, bound, styles, variant, "-")
    axes.plot(gains.steps, gains.mean, color=look.colour, lw=2.6, drawstyle="steps-mid")
    if not bound.exists:
        return f"{variant.label}: no bound."
    means = f"{variant.label}: bound {decimal(float(np.nanmean(bound.mean)))} on average"
    if gains.exists:
        means += f", measured {decimal(float(np.nanmean(gains.mean)))} a step"
    return f"{means}."


def _draw_line(
    axes: Axes, series: Series, styles: Mapping[str, Look], variant: Variant, line: str
) -> None:
    kept = np.isfinite(series.mean)
    axes.plot(
        series.steps[kept],
        series.mean[kept],
        color=styles[variant.label].colour,
        linestyle=line,
        lw=1.2,
    )
