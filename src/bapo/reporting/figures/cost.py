"""Where the time and the tokens went."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bapo.reporting.figures.style import FIGURE_WIDTH, INK, PHASES, Picture, drawing, picture
from bapo.reporting.text import decimal
from bapo.reporting.variants import Variant

_PALE = ("reward", "proximal", "checkpoint", "other")
_TOKENS = {
    "generated": ("generated_tokens", "#0072B2"),
    "forward": ("forward_tokens", "#56B4E9"),
    "backward": ("backward_tokens", "#009E73"),
}


def phase_seconds(variant: Variant) -> dict[str, float]:
    """Mean seconds of a step in each phase over all seeds; those never measured are left out."""
    steps = sum(run.steps_done for run in variant.runs)
    if not steps:
        return {}
    seconds: dict[str, float] = {}
    for phase in PHASES:
        totals = [run.total(f"seconds_{phase}") for run in variant.runs]
        if not all(math.isnan(total) for total in totals):
            seconds[phase] = float(np.nansum(totals)) / steps
    totals = [run.total("seconds") for run in variant.runs]
    rest = float(np.nansum(totals)) / steps - sum(seconds.values())
    if seconds and rest > 0:
        seconds["other"] = rest
    return seconds


def cost_figure(variants: Sequence[Variant]) -> Picture | None:
    """Seconds of a mean step by phase, and tokens of a run."""
    timed = [
        (variant.label, seconds) for variant in variants if (seconds := phase_seconds(variant))
    ]
    if not timed:
        return None
    with drawing(
        FIGURE_WIDTH, 1.5 + 0.55 * len(variants) + (0.5 if len(variants) == 1 else 0)
    ) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        for index, (_, seconds) in enumerate(timed):
            _draw_phases(left, index, seconds)
        _name_rows(left, [label for label, _ in timed])
        left.set_title("seconds of a mean step, by phase")
        left.set_xlim(0, max(sum(seconds.values()) for _, seconds in timed) * 1.15)
        handles = [
            Patch(color=colour, label=phase)
            for phase, colour in PHASES.items()
            if any(seconds.get(phase, 0) > 0 for _, seconds in timed)
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=8)
        words = [
            f"{label}: "
            + ", ".join(f"{phase} {decimal(value)} s" for phase, value in seconds.items())
            for label, seconds in timed
        ]
        words.append(_draw_tokens(right, variants))
        return picture(figure, "Stacked bars of time. " + ". ".join(words))


def _draw_phases(axes: Axes, row: int, seconds: dict[str, float]) -> None:
    start = 0.0
    total = sum(seconds.values())
    for phase, value in seconds.items():
        axes.barh(row, value, left=start, height=0.62, color=PHASES[phase])
        if value > 0.12 * total:
            axes.text(
                start + value / 2,
                row,
                f"{100 * value / total:.0f}\u00a0%",
                ha="center",
                va="center",
                color=INK if phase in _PALE else "white",
                fontsize=8.5,
            )
        start += value
    axes.text(start, row, f"\u00a0\u00a0{decimal(total)}\u00a0s", va="center", fontsize=9)


def _draw_tokens(axes: Axes, variants: Sequence[Variant]) -> str:
    """Tokens of a run in millions, the mean over its seeds; returns the numbers in words."""
    words = []
    height = 0.8 / len(_TOKENS)
    for row, variant in enumerate(variants):
        for index, (name, (metric, colour)) in enumerate(_TOKENS.items()):
            totals = [run.total(metric) for run in variant.runs]
            totals = [total for total in totals if not math.isnan(total)]
            if totals:
                millions = float(np.mean(totals)) / 1e6
                y = row + (index - 1) * height
                axes.barh(y, millions, height=height * 0.9, color=colour)
                axes.text(
                    millions,
                    y,
                    f"\u00a0\u00a0{decimal(millions)}\u00a0{name}",
                    va="center",
                    fontsize=8,
                )
                words.append(f"{variant.label} {name} {decimal(millions)} million tokens")
    _name_rows(axes, [variant.label for variant in variants])
    axes.set_title("million tokens of a run")
    axes.set_xlim(0, axes.get_xlim()[1] * 1.45)
    return ", ".join(words)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
