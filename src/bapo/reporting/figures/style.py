"""The look of the figures, and how one becomes an image inside the page.

Colours are Okabe and Ito's palette and tints of it, told apart with any common colour blindness and
always doubled by a line style, a marker or a label. Figures are SVG with their text as text in the
reader's own font; matplotlib lays it out with a wider one, so that nothing overlaps.
"""

import base64
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bapo.reporting.variants import Variant

INK = "#1c2430"
MUTED = "#5b6675"
GRID = "#e4e8ee"
BASE = "#687382"
FIGURE_WIDTH = 10.5
"""Inches; one unit of type stays the same size in every figure."""

SOURCES = {
    "fresh": "#0072B2",
    "retried": "#D55E00",
    "reused": "#56B4A0",
    "without signal": "#b9a3ab",
    "missing": "#e9ecf1",
}
OUTCOMES = {
    "all wrong": "#8c4a5a",
    "mixed": "#56B4E9",
    "all right": "#f0d264",
    "not verified": "#c9ced6",
}
PHASES = {
    "rollout": "#0072B2",
    "reward": "#E69F00",
    "adaptation": "#CC79A7",
    "proximal": "#56B4E9",
    "update": "#009E73",
    "sync": "#D55E00",
    "checkpoint": "#8c96a3",
    "other": "#d5dae1",
}
LEVELS = ("#3b1f5b", "#31688e", "#35a0a0", "#7fc97f", "#f2cf3b")
"""Hardest to easiest: dark to light, so that the order survives in grey."""

_OWN_COLOURS = {"bapo": "#0072B2", "grpo": "#E69F00", "dapo": "#009E73"}
_OTHER_COLOURS = ("#CC79A7", "#D55E00", "#56B4E9", "#7b5ea7", "#8a6d3b", "#4d5966")
_LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_RC: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bapo",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#c3cad4",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_FONT = re.compile(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*")
_SYSTEM_FONTS = r"\1system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class Look:
    """How one variant is drawn in every figure.

    Attributes:
        colour: Of lines and bars.
        line: The line's dashes.
        marker: At points that were measured.
        band: Opacity of a band, fainter the more variants there are.
    """

    colour: str
    line: str | tuple[int, tuple[int, ...]]
    marker: str
    band: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure ready for the page.

    Attributes:
        uri: The image as a data URI.
        alternative: What the figure shows, in words and numbers, for those who cannot see it.
        width: In pixels at 96 per inch.
        height: In pixels.
    """

    uri: str
    alternative: str
    width: int
    height: int


def looks(variants: Sequence[Variant]) -> dict[str, Look]:
    """A colour, line style and marker for each variant's label, stable for the named presets."""
    spare = list(_OTHER_COLOURS)
    styles: dict[str, Look] = {}
    taken: set[str] = set()
    for index, variant in enumerate(variants):
        colour = _OWN_COLOURS.get(variant.algorithm, "")
        if not colour or colour in taken:
            colour = spare.pop(0) if spare else MUTED
        taken.add(colour)
        styles[variant.label] = Look(
            colour,
            _LINES[index % len(_LINES)],
            _MARKERS[index % len(_MARKERS)],
            0.14 if len(variants) <= 4 else 0.07,
        )
    return styles


@contextmanager
def drawing(width: float, height: float) -> Iterator[Figure]:
    """A figure of `width` x `height` inches in the page's style; no global state keeps it."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def picture(figure: Figure, alternative: str) -> Picture:
    """Renders a figure; call it inside its `drawing`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = _FONT.sub(_SYSTEM_FONTS, buffer.getvalue())
    svg = svg[svg.index("<svg") :]
    width, height = figure.get_size_inches() * 96
    encoded = base64.b64encode(svg.encode("utf-8")).decode("ascii")
    return Picture(
        f"data:image/svg+xml;base64,{encoded}",
        alternative,
        round(float(width)),
        round(float(height)),
    )


def percent_axis(axes: Axes, *, low: float = 0.0) -> None:
    """Writes the y axis of shares as per cent, from `low`."""
    axes.set_ylim(bottom=low)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}\u00a0%")


def step_axis(axes: Axes) -> None:
    """Names the x axis and keeps its ticks at whole steps."""
    axes.set_xlabel("training step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def thousands_axis(axes: Axes) -> None:
    """Writes large counts on the x axis as `20k`."""
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
    )
