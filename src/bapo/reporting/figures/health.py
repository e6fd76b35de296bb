"""Small multiples of the numbers that show whether training is well."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from bapo.reporting.figures.series import metric_over_seeds
from bapo.reporting.figures.style import (
    FIGURE_WIDTH,
    SOURCES,
    Look,
    Picture,
    drawing,
    percent_axis,
    picture,
    step_axis,
)
from bapo.reporting.text import decimal
from bapo.reporting.variants import Variant

_PANELS: Mapping[str, tuple[str, bool]] = {
    "correctness_fresh": ("correct, fresh completions", True),
    "correctness_retried": ("correct, retried completions", True),
    "entropy": ("entropy, nats a token", False),
    "kl_behavior": ("KL to the behavior policy", False),
    "staleness_mean": ("mean staleness, steps", False),
    "importance_weight_truncated_share": ("importance weights truncated", True),
    "ratio_clipped_share": ("ratios clipped", True),
    "grad_norm": ("gradient norm before clipping", False),
    "completion_tokens_mean": ("tokens a completion", False),
    "truncated_share": ("completions cut at the limit", True),
}
"""Metric to title, and whether it is a share."""

_COLUMNS = 3


def health_figure(variants: Sequence[Variant], styles: Mapping[str, Look]) -> Picture | None:
    """A panel for every metric that was measured, then the reuse band and the buffers."""
    metrics = [
        name
        for name in _PANELS
        if any(metric_over_seeds(variant.runs, name).exists for variant in variants)
    ]
    banded = next((variant for variant in variants if _has_band(variant)), None)
    buffered = [v for v in variants if _has_buffers(v)]
    panels = len(metrics) + (banded is not None) + bool(buffered)
    if not panels:
        return None
    rows = -(-panels // _COLUMNS)
    with drawing(FIGURE_WIDTH, 2.15 * rows + 0.4) as figure:
        grid = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes in grid[panels:]:
            axes.axis("off")
        words = [
            _draw_metric(axes, name, variants, styles)
            for axes, name in zip(grid, metrics, strict=False)
        ]
        rest = iter(grid[len(metrics) :])
        if banded is not None:
            words.append(_draw_band(next(rest), banded, styles, several=len(variants) > 1))
        if buffered:
            _draw_buffers(next(rest), buffered, styles)
        if len(variants) > 1:
            handles, labels = grid[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 5))
        for place, axes in enumerate(grid[:panels]):
            step_axis(axes)
            if place + _COLUMNS < panels:
                axes.set_xlabel("")
        return picture(figure, "Small line charts over the steps. " + " ".join(words))


def _draw_metric(
    axes: Axes, name: str, variants: Sequence[Variant], styles: Mapping[str, Look]
) -> str:
    title, is_share = _PANELS[name]
    words = []
    for variant in variants:
        series = metric_over_seeds(variant.runs, name)
        look = styles[variant.label]
        kept = np.isfinite(series.mean)
        if not kept.any():
            axes.plot([], [], color=look.colour, linestyle=look.line, label=variant.label)
            continue
        marker = "." if kept.sum() < 25 else None
        steps, mean = series.steps[kept], series.mean[kept]
        axes.plot(
            steps,
            mean,
            color=look.colour,
            linestyle=look.line,
            lw=1.3,
            marker=marker,
            label=variant.label,
        )
        if variant.has_seeds:
            low, high = series.low[kept], series.high[kept]
            axes.fill_between(steps, low, high, color=look.colour, alpha=look.band, linewidth=0)
        words.append(f"{variant.label} from {decimal(mean[0])} to {decimal(mean[-1])}")
    axes.set_title(title)
    if is_share:
        percent_axis(axes)
    else:
        axes.set_ylim(bottom=0)
    return f"{title}: {', '.join(words)}."


def _draw_band(axes: Axes, variant: Variant, styles: Mapping[str, Look], *, several: bool) -> str:
    """The reuse band [c2, c3] and the strength r that moves it, of one variant."""
    low = metric_over_seeds(variant.runs, "reuse_low")
    high = metric_over_seeds(variant.runs, "reuse_high")
    strength = metric_over_seeds(variant.runs, "policy_strength")
    axes.fill_between(
        low.steps,
        low.mean,
        high.mean,
        step="mid",
        color=SOURCES["reused"],
        alpha=0.45,
        linewidth=0,
        label="band",
    )
    if strength.exists:
        axes.plot(
            strength.steps, strength.mean, color=styles[variant.label].colour, lw=1.6, label="r"
        )
    axes.set_title("reuse band and strength r" + (f", {variant.label}" if several else ""))
    percent_axis(axes)
    axes.legend(loc="upper left", ncols=2, fontsize=8)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.25)
    first = f"{decimal(low.mean[0])} to {decimal(high.mean[0])}"
    last = f"{decimal(low.mean[-1])} to {decimal(high.mean[-1])}"
    return f"Reuse band: {first} at the start, {last} at the end."


def _has_band(variant: Variant) -> bool:
    """Whether the band was measured and means anything: it moves also where nothing is reused."""
    reuses = variant.runs[0].setting("adaptation", "reuse") is not False
    return reuses and metric_over_seeds(variant.runs, "reuse_low").exists


def _has_buffers(variant: Variant) -> bool:
    names = ("hard_buffer_size", "reuse_buffer_size")
    return any(run.total(name) > 0 for run in variant.runs for name in names)


def _draw_buffers(axes: Axes, variants: Sequence[Variant], styles: Mapping[str, Look]) -> None:
    """Sizes of the hard buffer (prompts) and the reuse buffer (groups)."""
    several = len(variants) > 1
    for variant in variants:
        hard = metric_over_seeds(variant.runs, "hard_buffer_size")
        reuse = metric_over_seeds(variant.runs, "reuse_buffer_size")
        own = styles[variant.label].colour
        prefix = f"{variant.label} " if several else ""
        if hard.exists:
            colour = own if several else SOURCES["retried"]
            axes.plot(hard.steps, hard.mean, color=colour, lw=1.6, label=f"{prefix}hard, prompts")
        if reuse.exists:
            colour = own if several else SOURCES["reused"]
            axes.plot(
                reuse.steps,
                reuse.mean,
                color=colour,
                lw=1.6,
                ls="--",
                label=f"{prefix}reuse, groups",
            )
    axes.set_title("buffers at the end of the step")
    axes.set_ylim(0, axes.get_ylim()[1] * (1.3 if len(variants) < 3 else 1.6))
    axes.legend(loc="upper left", ncols=2 if not several else 1, fontsize=8)
