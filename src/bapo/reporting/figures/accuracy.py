"""Held-out accuracy against rollouts and against time."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from bapo.reporting.figures.style import (
    BASE,
    FIGURE_WIDTH,
    Look,
    Picture,
    drawing,
    percent_axis,
    picture,
    thousands_axis,
)
from bapo.reporting.measures import HeldOutPoint, held_out_points
from bapo.reporting.text import percent
from bapo.reporting.variants import Variant


def base_accuracy(variants: Sequence[Variant]) -> float:
    """Mean held-out pass@1 of the base (step 0) over all runs; NaN if none was evaluated."""
    values = [
        points[0].pass_at_1
        for variant in variants
        for run in variant.runs
        if (points := held_out_points(run)) and points[0].step == 0
    ]
    return float(np.mean(values)) if values else math.nan


def accuracy_figure(variants: Sequence[Variant], styles: Mapping[str, Look]) -> Picture | None:
    """Two panels, one y axis: pass@1 against training rollouts and against training minutes.

    The line of a variant with several seeds joins the means at the steps that all seeds have
    reached, its band goes from the lowest to the highest seed, and each seed is a thin line. With
    one seed the band is the 95 % interval over prompts.
    """
    curves = {
        variant.label: [points for run in variant.runs if (points := held_out_points(run))]
        for variant in variants
    }
    if not any(curves.values()):
        return None
    base = base_accuracy(variants)
    ends = [points[-1].seconds for seeds in curves.values() for points in seeds]
    unit, unit_name = _time_unit(max(ends))
    with drawing(FIGURE_WIDTH, 4.3) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for label, seeds in curves.items():
            if seeds:
                _draw_curve(left, seeds, "rollouts", 1.0, styles[label], label)
                _draw_curve(right, seeds, "seconds", unit, styles[label], label)
        for axes in (left, right):
            if not math.isnan(base):
                axes.axhline(base, color=BASE, linewidth=1.3, linestyle=(0, (4, 3)), zorder=1)
            percent_axis(axes)
            axes.set_xlim(left=0)
            axes.margins(y=0.12)
            axes.set_ylim(0, axes.get_ylim()[1])
        if not math.isnan(base):
            _name_base(left, base)
        left.set_title("against rollouts")
        left.set_ylabel("held-out pass@1")
        left.set_xlabel("completions sampled for training")
        thousands_axis(left)
        right.set_title("against time")
        right.set_xlabel(f"{unit_name} of training, evaluation not counted")
        if len(curves) > 1:
            handles, names = left.get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 5))
        return picture(figure, _alternative(curves, base))


def _name_base(axes: Axes, base: float) -> None:
    """Names the base line at its right end: below it, or above it where there is no room below."""
    is_low = base < 0.08 * axes.get_ylim()[1]
    axes.annotate(
        f"base {percent(base)}",
        (1, base),
        (-2, 4 if is_low else -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom" if is_low else "top",
        color=BASE,
        fontsize=8.5,
    )


def _time_unit(longest: float) -> tuple[float, str]:
    """The seconds in the unit that suits a run of `longest` seconds, and its name."""
    if longest < 150:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")


def _draw_curve(
    axes: Axes,
    seeds: Sequence[Sequence[HeldOutPoint]],
    x_name: str,
    unit: float,
    look: Look,
    label: str,
) -> None:
    """One variant in one panel; x is `x_name` in multiples of `unit`."""
    shared = set.intersection(*({point.step for point in points} for points in seeds))
    kept = [[point for point in points if point.step in shared] for points in seeds]
    x = np.array([[getattr(point, x_name) / unit for point in points] for points in kept])
    y = np.array([[point.pass_at_1 for point in points] for points in kept])
    if len(seeds) > 1:
        for points in seeds:
            axes.plot(
                [getattr(point, x_name) / unit for point in points],
                [point.pass_at_1 for point in points],
                color=look.colour,
                linewidth=0.8,
                alpha=0.35,
            )
        low, high = y.min(axis=0), y.max(axis=0)
    else:
        intervals = [point.interval for point in kept[0]]
        low = np.array([math.nan if interval is None else interval.low for interval in intervals])
        high = np.array([math.nan if interval is None else interval.high for interval in intervals])
    middle = x.mean(axis=0)
    axes.fill_between(middle, low, high, color=look.colour, alpha=look.band, linewidth=0)
    axes.plot(
        middle,
        y.mean(axis=0),
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=4.5,
        clip_on=False,
        markeredgecolor="white",
        markeredgewidth=0.8,
        label=label,
        zorder=3,
    )


def _alternative(curves: Mapping[str, Sequence[Sequence[HeldOutPoint]]], base: float) -> str:
    parts = [f"Line charts of held-out pass@1. The base has {percent(base)}."]
    for label, seeds in curves.items():
        if seeds:
            last = float(np.mean([points[-1].pass_at_1 for points in seeds]))
            step = max(points[-1].step for points in seeds)
            parts.append(f"{label} has {percent(last)} at step {step}.")
    return " ".join(parts)
