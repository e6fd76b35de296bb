"""What each training batch was made of, and what sampling found."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bapo.reporting.figures.series import metric_over_seeds, over_seeds
from bapo.reporting.figures.style import (
    FIGURE_WIDTH,
    MUTED,
    OUTCOMES,
    SOURCES,
    Picture,
    drawing,
    percent_axis,
    picture,
    step_axis,
)
from bapo.reporting.runs import RunRecord
from bapo.reporting.text import number, percent
from bapo.reporting.variants import Variant

FloatArray = npt.NDArray[np.float64]


def batch_figure(variants: Sequence[Variant]) -> Picture | None:
    """A row per variant: groups in the batch by source, fresh groups sampled by outcome."""
    drawn = [
        variant for variant in variants if metric_over_seeds(variant.runs, "groups_fresh").exists
    ]
    if not drawn:
        return None
    height = 3.6 if len(drawn) == 1 else 0.7 + 2.0 * len(drawn)
    with drawing(FIGURE_WIDTH, height) as figure:
        rows = figure.subplots(len(drawn), 2, squeeze=False, sharex="row")
        sentences = []
        for (left, right), variant in zip(rows, drawn, strict=True):
            sentences.append(_draw_sources(left, variant))
            sentences.append(_draw_outcomes(right, variant))
            name = "" if len(drawn) == 1 else f"{variant.label}: "
            left.set_title(f"{name}groups in the batch")
            right.set_title(f"{name}fresh groups sampled")
        for axes in rows.ravel():
            step_axis(axes)
        for axes in rows[:-1].ravel():
            axes.set_xlabel("")
        runs = [run for variant in drawn for run in variant.runs]
        _legends(
            figure,
            has_unverified=any(run.total("groups_unverified") > 0 for run in runs),
            has_silent=any(_without_signal(run).any() for run in runs),
        )
        return picture(figure, "Stacked areas over the training steps. " + " ".join(sentences))


def _draw_sources(axes: Axes, variant: Variant) -> str:
    """Groups of a batch by source; returns their means in words."""
    runs = variant.runs
    silent = [_without_signal(run) for run in runs]
    fresh = [run.column("groups_fresh") - wasted for run, wasted in zip(runs, silent, strict=True)]
    parts = {
        "fresh": over_seeds(runs, fresh),
        "retried": metric_over_seeds(runs, "groups_retried"),
        "reused": metric_over_seeds(runs, "groups_reused"),
        "without signal": over_seeds(runs, silent),
    }
    stacks = {name: np.nan_to_num(part.mean) for name, part in parts.items()}
    total = np.sum(list(stacks.values()), axis=0)
    wanted = number({"B": runs[0].setting("training", "batch_groups")}, "B")
    if np.isfinite(wanted):
        stacks["missing"] = np.clip(wanted - total, 0, None)
        axes.axhline(wanted, color=MUTED, linewidth=1)
    colours = [SOURCES[name] for name in stacks]
    _stack(axes, parts["fresh"].steps, list(stacks.values()), colours)
    axes.set_ylim(0, max(float(total.max()), wanted if np.isfinite(wanted) else 1) * 1.04)
    means = [f"{float(np.mean(stack)):.1f} {name}" for name, stack in stacks.items()]
    return f"{variant.label}: on average {', '.join(means)} groups in a batch."


def _without_signal(run: RunRecord) -> FloatArray:
    """`(S,)` fresh groups in the batch that are all wrong or all right, so without any gradient.

    They enter only where the filter is off; then every verified fresh group does, unless the batch
    is full, and in such a step the split is not known and the groups count as fresh.
    """
    if run.setting("adaptation", "filter_fresh") is not False:
        return np.zeros(run.steps_done)
    silent = run.column("groups_all_wrong") + run.column("groups_all_right")
    known = run.column("groups_surplus") == 0
    return np.where(known, np.minimum(silent, run.column("groups_fresh")), 0.0)


def _draw_outcomes(axes: Axes, variant: Variant) -> str:
    names = ("all_wrong", "mixed", "all_right", "unverified")
    per_run = [_outcome_shares(run) for run in variant.runs]
    series = [
        over_seeds(variant.runs, [shares[index] for shares in per_run])
        for index, _ in enumerate(names)
    ]
    stacks = [np.nan_to_num(part.mean) for part in series]
    _stack(axes, series[0].steps, stacks, list(OUTCOMES.values()))
    axes.set_ylim(0, 1)
    percent_axis(axes)
    if not series[0].exists:
        return ""
    first, last = series[0].mean[0], series[0].mean[-1]
    start, end = percent(float(first)), percent(float(last))
    return f"All wrong: {start} of its sampled groups at the start, {end} at the end."


def _outcome_shares(run: RunRecord) -> list[FloatArray]:
    """`(S,)` shares of the sampled fresh groups: all wrong, mixed, all right, not verified."""
    sampled = run.column("groups_sampled_fresh")
    sampled[sampled == 0] = np.nan
    wrong, right = run.column("groups_all_wrong"), run.column("groups_all_right")
    unverified = np.nan_to_num(run.column("groups_unverified"))
    mixed = sampled - wrong - right - unverified
    return [part / sampled for part in (wrong, mixed, right, unverified)]


def _stack(
    axes: Axes, steps: FloatArray, stacks: Sequence[FloatArray], colours: Sequence[str]
) -> None:
    """Stacked areas, one flat piece per step: a source that comes every few steps stays seen."""
    width = float(np.diff(steps).mean()) if len(steps) > 1 else 1.0
    edges = np.append(steps - width / 2, steps[-1] + width / 2)
    below = np.zeros(len(steps))
    for stack, colour in zip(stacks, colours, strict=False):
        axes.stairs(below + stack, edges, baseline=below, fill=True, color=colour, linewidth=0)
        below = below + stack
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False)


def _legends(figure: Figure, *, has_unverified: bool, has_silent: bool) -> None:
    shown = [name for name in SOURCES if has_silent or name != "without signal"]
    sources = [Patch(color=SOURCES[name], label=name) for name in shown]
    outcomes = [Patch(color=colour, label=name) for name, colour in OUTCOMES.items()]
    kept = outcomes if has_unverified else outcomes[:3]
    figure.legend(handles=sources, loc="outside upper left", ncols=5)
    figure.legend(handles=kept, loc="outside upper right", ncols=4)
