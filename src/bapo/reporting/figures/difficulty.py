"""How training prompts moved between difficulty levels: a flow from before to after."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from bapo.reporting.figures.style import FIGURE_WIDTH, INK, LEVELS, MUTED, Picture, drawing, picture
from bapo.reporting.measures import (
    DifficultyLevel,
    Movement,
    control_movement,
    pooled,
    trained_movement,
)
from bapo.reporting.variants import Variant

FloatArray = npt.NDArray[np.float64]

_COLUMNS = 2
_MARGIN = 0.27  # room for labels on either side, in widths of a flow
_BAR = 0.09
_GAP = 0.018
_SMALLEST_LABEL = 0.012


def difficulty_figure(variants: Sequence[Variant]) -> Picture | None:
    """One flow per variant, and one of the base asked again: what chance alone moves."""
    runs = [run for variant in variants for run in variant.runs]
    flows = [
        (variant.label, movement)
        for variant in variants
        if (movement := pooled([trained_movement(run) for run in variant.runs]))
    ]
    if not flows:
        return None
    control = pooled([control_movement(run) for run in runs])
    panels = [(label, "base", "trained", movement) for label, movement in flows]
    if control is not None:
        panels.append(("chance alone", "base", "base again", control))
    columns = min(len(panels), _COLUMNS)
    rows = -(-len(panels) // columns)
    with drawing(FIGURE_WIDTH, (4.4 if rows == 1 else 3.5) * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, panel in zip(grid, panels, strict=False):
            _draw_flow(axes, *panel)
        words = (_in_words(label, after, movement) for label, _, after, movement in panels)
        return picture(figure, "Flow diagrams of difficulty levels. " + " ".join(words))


def _draw_flow(axes: Axes, title: str, before: str, after: str, movement: Movement) -> None:
    """Stacked levels on both sides, hardest at the bottom, and a ribbon for each pair of levels."""
    counts = movement.counts / movement.counts.sum()
    colours = _colours(movement.levels)
    left, right = _bottoms(counts.sum(axis=1)), _bottoms(counts.sum(axis=0))
    for level, colour in enumerate(colours):
        axes.add_patch(Rectangle((0, left[level]), _BAR, counts[level].sum(), color=colour, lw=0))
        top = Rectangle((1 - _BAR, right[level]), _BAR, counts[:, level].sum(), color=colour, lw=0)
        axes.add_patch(top)
    start, end = left.copy(), right.copy()
    for source, colour in enumerate(colours):
        for target in range(len(colours)):
            share = counts[source, target]
            if share > 0:
                axes.add_patch(_ribbon(start[source], end[target], share, colour))
                start[source] += share
                end[target] += share
    _label_side(axes, movement, counts.sum(axis=1), left, is_left=True)
    _label_side(axes, movement, counts.sum(axis=0), right, is_left=False)
    head = 1 + _GAP * len(colours) + 0.035
    axes.text(0, head, before, ha="left", color=MUTED, fontsize=8.5)
    axes.text(1, head, after, ha="right", color=MUTED, fontsize=8.5)
    name = head + 0.075
    axes.text(0.5, name, title, ha="center", color=INK, fontsize=9.5, fontweight="bold")
    axes.set_xlim(-_MARGIN, 1 + _MARGIN)
    axes.set_ylim(-0.02, name + 0.06)


def _label_side(
    axes: Axes, movement: Movement, shares: FloatArray, bottoms: FloatArray, *, is_left: bool
) -> None:
    for level, share, bottom in zip(movement.levels, shares, bottoms, strict=True):
        if share < _SMALLEST_LABEL:
            continue
        axes.text(
            -0.02 if is_left else 1.02,
            bottom + share / 2,
            f"{level.label} right\u00a0\u00a0{100 * share:.0f}\u00a0%",
            ha="right" if is_left else "left",
            va="center",
            fontsize=8.5,
        )


def _bottoms(shares: FloatArray) -> FloatArray:
    """Where each level's bar starts, with a gap between levels."""
    return np.cumsum(shares) - shares + _GAP * np.arange(len(shares))


def _ribbon(start: float, end: float, share: float, colour: str) -> PathPatch:
    """A band of constant height from the left bar to the right one."""
    left, right, middle = _BAR, 1 - _BAR, 0.5
    points = [
        (left, start),
        (middle, start),
        (middle, end),
        (right, end),
        (right, end + share),
        (middle, end + share),
        (middle, start + share),
        (left, start + share),
        (left, start),
    ]
    curve = [Path.CURVE4] * 3
    codes = [Path.MOVETO, *curve, Path.LINETO, *curve, Path.CLOSEPOLY]
    return PathPatch(Path(points, codes), facecolor=colour, alpha=0.42, linewidth=0)


def _colours(levels: Sequence[DifficultyLevel]) -> list[str]:
    """Dark to light; fewer levels skip colours in the middle, so that none and all keep theirs."""
    picks = np.linspace(0, len(LEVELS) - 1, len(levels)).round().astype(int)
    return [LEVELS[pick] for pick in picks]


def _in_words(label: str, after: str, movement: Movement) -> str:
    before, then = movement.counts.sum(axis=1), movement.counts.sum(axis=0)
    parts = [
        f"{level.label} of {movement.samples} right: {first} before, {second} {after}"
        for level, first, second in zip(movement.levels, before, then, strict=True)
    ]
    return f"{label}: " + "; ".join(parts) + "."
