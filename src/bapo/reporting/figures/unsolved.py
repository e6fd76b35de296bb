"""Training problems that the base always failed, and how many are solved now."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bapo.reporting.figures.style import FIGURE_WIDTH, INK, Look, Picture, drawing, picture
from bapo.reporting.intervals import Interval, wilson
from bapo.reporting.measures import UnsolvedSolved, unsolved_solved
from bapo.reporting.text import percent
from bapo.reporting.variants import Variant

_CONTROL = "#b4bcc8"


@dataclass(frozen=True, slots=True)
class SolvedShare:
    """The share of unsolved problems solved, of one variant.

    Attributes:
        share: Mean over the seeds, in [0, 1] or NaN.
        spread: Lowest to highest seed; with one seed the 95 % interval over problems.
        control: The same for the base asked again.
        control_spread: Its spread.
        counts: The counts of each seed.
    """

    share: float
    spread: Interval | None
    control: float
    control_spread: Interval | None
    counts: tuple[UnsolvedSolved, ...]


def solved_share(variant: Variant) -> SolvedShare | None:
    """The share of a variant, over the seeds that have unsolved problems; None if none has."""
    counts = [found for run in variant.runs if (found := unsolved_solved(run)) and found.unsolved]
    if not counts:
        return None
    asked = [count for count in counts if count.asked_again]
    return SolvedShare(
        float(np.mean([count.share for count in counts])),
        _spread([(count.solved, count.unsolved) for count in counts]),
        float(np.mean([count.control for count in asked])) if asked else math.nan,
        _spread([(count.by_base, count.asked_again) for count in asked]),
        tuple(counts),
    )


def _spread(fractions: Sequence[tuple[int, int]]) -> Interval | None:
    if not fractions:
        return None
    if len(fractions) == 1:
        return wilson(*fractions[0])
    shares = [part / whole for part, whole in fractions]
    return Interval(min(shares), max(shares))


def unsolved_figure(variants: Sequence[Variant], styles: Mapping[str, Look]) -> Picture | None:
    """Two bars for each variant: solved after training, and by the base asked again."""
    rows = [(variant, share) for variant in variants if (share := solved_share(variant))]
    if not rows:
        return None
    bars = [bar for row, pair in enumerate(rows) for bar in _bars(row, *pair, styles)]
    with drawing(FIGURE_WIDTH, 0.75 + 0.85 * len(rows)) as figure:
        axes = figure.subplots()
        for bar in bars:
            axes.barh(bar.place, bar.share, height=0.34, color=bar.colour)
            end = bar.share
            if bar.spread is not None:
                ends = [bar.spread.low, bar.spread.high]
                axes.plot(ends, [bar.place, bar.place], color=INK, linewidth=1.1)
                end = max(end, bar.spread.high)
            text = f"\u00a0\u00a0{percent(bar.share)}"
            axes.text(end, bar.place, text, va="center", fontsize=9.5)
        axes.set_yticks([bar.place for bar in bars], [bar.name for bar in bars])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        ends = [max(bar.share, bar.spread.high if bar.spread else 0) for bar in bars]
        axes.set_xlim(0, 1.12 * max(*ends, 0.05))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}\u00a0%")
        axes.set_xlabel("share of the training problems that the base always failed")
        words = " ".join(f"{bar.name}: {percent(bar.share)}." for bar in bars)
        return picture(figure, f"Bars of unsolved problems solved. {words}")


@dataclass(frozen=True, slots=True)
class _Bar:
    place: float
    name: str
    share: float
    spread: Interval | None
    colour: str


def _bars(
    row: int, variant: Variant, solved: SolvedShare, styles: Mapping[str, Look]
) -> list[_Bar]:
    """The bar of a variant and, where it was measured, the one of its control below it."""
    colour = styles[variant.label].colour
    bars = [_Bar(row - 0.19, variant.label, solved.share, solved.spread, colour)]
    if not math.isnan(solved.control):
        spread = solved.control_spread
        bars.append(_Bar(row + 0.19, "base asked again", solved.control, spread, _CONTROL))
    return bars
