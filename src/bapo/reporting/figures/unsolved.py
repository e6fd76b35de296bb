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
    with drawing(FIGURE_WIDTH, 0.75 + 0.85 * len(rows)) as figure:
        axes = figure.subplots()
        sentences = []
        for index, (variant, solved) in enumerate(rows):
            bars = [(index - 0.19, solved.share, solved.spread, styles[variant.label].colour)]
            bars.append((index + 0.19, solved.control, solved.control_spread, _CONTROL))
            names = (variant.label, "base asked again")
            for (y, share, spread, colour), name in zip(bars, names, strict=True):
                if math.isnan(share):
                    continue
                axes.barh(y, share, height=0.34, color=colour)
                end = share
                if spread is not None:
                    axes.plot([spread.low, spread.high], [y, y], color=INK, linewidth=1.1)
                    end = max(share, spread.high)
                axes.text(end + 0.008, y, f"{percent(share)}  {name}", va="center", fontsize=9)
                sentences.append(f"{name}: {percent(share)}.")
        axes.set_yticks([])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, min(1.0, _right_end(rows) + 0.25))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}\u00a0%")
        axes.set_xlabel("share of the training problems that the base always failed")
        return picture(figure, "Bars of unsolved problems solved. " + " ".join(sentences))


def _right_end(rows: Sequence[tuple[Variant, SolvedShare]]) -> float:
    ends = [
        max(
            share.share,
            share.spread.high if share.spread else 0,
            share.control_spread.high if share.control_spread else 0,
        )
        for _, share in rows
    ]
    return max(ends)
