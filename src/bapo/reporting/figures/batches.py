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
        for axes in rows[-1]:
            axes.set_xlabel("training step")
        _legends(figure, has_unverified=any(_unverified(variant) for variant in drawn))
        return picture(figure, "Stacked areas over the training steps. " + " ".join(sentences))


def _draw_sources(axes: Axes, variant: Variant) -> str:
    parts = {name: metric_over_seeds(variant.runs, f"groups_{name}") for name in list(SOURCES)[:3]}
    steps = parts["fresh"].steps
    stacks = [np.nan_to_num(part.mean) for part in parts.values()]
    wanted = number({"B": variant.runs[0].setting("training", "batch_groups")}, "B")
    total = np.sum(stacks, axis=0)
    if np.isfinite(wanted):
        stacks.append(np.clip(wanted - total, 0, None))
    _stack(axes, steps, stacks, list(SOURCES.values()))
    if np.isfinite(wanted):
        axes.axhline(wanted, color=MUTED, linewidth=1)
        axes.set_ylim(0, max(wanted, float(total.max())) * 1.04)
    means = [
        f"{float(np.mean(stack)):.1f} {name}" for name, stack in zip(SOURCES, stacks, strict=False)
    ]
    return f"{variant.label}: on average {', '.join(means)} groups in a batch."


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


def _unverified(variant: Variant) -> bool:
    return any(run.total("groups_unverified") > 0 for run in variant.runs)


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


def _legends(figure: Figure, *, has_unverified: bool) -> None:
    sources = [Patch(color=colour, label=name) for name, colour in SOURCES.items()]
    outcomes = [Patch(color=colour, label=name) for name, colour in OUTCOMES.items()]
    kept = outcomes if has_unverified else outcomes[:3]
    figure.legend(handles=sources, loc="outside upper left", ncols=4)
    figure.legend(handles=kept, loc="outside upper right", ncols=4)
