"""The figures of the geometry task: how each is drawn, which numbers it has, what x is.

A figure has one to three labelled numbers, its level. All numbers and answers are positive whole
numbers: angles in degrees, or lengths.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bapo.tasks.drawing import UNITS, Canvas, Point, between, centre

Rng = np.random.Generator
_MOVES: Final = 2.0
"""Units by which a corner is moved at most, in each direction."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One kind of figure.

    Attributes:
        name: Its key in `FIGURES`.
        numbers: Draws the labelled numbers.
        answer: x, from the numbers.
        steps: The worked steps, from the numbers; the last number in them is the answer.
        sketch: Draws lines and labels on a canvas; `x` is the last label.
        level: How many labelled numbers there are.
    """

    name: str
    numbers: Callable[[Rng], tuple[int, ...]]
    answer: Callable[..., int]
    steps: Callable[..., str]
    sketch: Callable[["Pencil", tuple[str, ...]], None]
    level: int

    def picture(self, numbers: tuple[int, ...], size: int, rng: Rng) -> Any:
        """The figure with these numbers, as a Pillow image of `size` pixels a side."""
        pencil = Pencil(Canvas(size), rng)
        self.sketch(pencil, (*map(str, numbers), "x"))
        return pencil.canvas.image


class Pencil:
    """Draws on a canvas with corners that are moved a little."""

    def __init__(self, canvas: Canvas, rng: Rng) -> None:
        self.canvas = canvas
        self._rng = rng
        self._mirrored = bool(rng.integers(2))

    def near(self, x: float, y: float) -> Point:
        """A point near the given one."""
        dx, dy = (_MOVES * (2 * self._rng.random(2) - 1)).tolist()
        return x + dx, y + dy

    def mirrored(self, x: float, y: float) -> Point:
        """A point near the given one, or, in every second figure, near its mirror image."""
        return self.near(UNITS - 1 - x if self._mirrored else x, y)

    def angles(self, *corners: Point, labels: tuple[str, ...], share: float) -> None:
        """A closed line, with a label inside every corner; any of them may have the last, `x`.

        Args:
            corners: In the order in which the numbers are labelled.
            labels: As many.
            share: How far a label stands on the way from its corner to the middle, in [0, 1].
        """
        self.canvas.line(*corners, closed=True)
        place = int(self._rng.integers(len(corners)))
        ordered = [*labels[:place], labels[-1], *labels[place:-1]]
        for corner, label in zip(corners, ordered, strict=True):
            self.canvas.label(label, between(corner, centre(corners), share))


def _angles(*bounds: tuple[int, int]) -> Callable[[Rng], tuple[int, ...]]:
    """Draws one number from each range, both ends included."""
    return lambda rng: tuple(int(rng.integers(low, high + 1)) for low, high in bounds)


def _two_of_a_triangle(rng: Rng) -> tuple[int, ...]:
    first = int(rng.integers(20, 121))
    return first, int(rng.integers(20, min(120, 160 - first) + 1))


def _part_and_whole(rng: Rng) -> tuple[int, ...]:
    part = int(rng.integers(10, 81))
    return part, int(rng.integers(part + 10, 100))


def _on_a_line(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """An angle and x beside each other on a straight line."""
    foot, top = pencil.mirrored(28, 46), pencil.mirrored(34, 6)
    pencil.canvas.line((2, foot[1]), foot, (53, foot[1]))
    pencil.canvas.line(foot, top)
    left, right = (foot[0] - 14, foot[1] - 9), (foot[0] + 14, foot[1] - 9)
    known, unknown = (left, right) if pencil.mirrored(0, 0)[0] < 28 else (right, left)
    pencil.canvas.label(labels[0], known)
    pencil.canvas.label(labels[1], unknown)


def _right_triangle(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """A triangle with a marked right angle, one acute angle and x."""
    right, far, top = pencil.mirrored(8, 48), pencil.mirrored(50, 48), pencil.mirrored(8, 6)
    far, top = (far[0], right[1]), (right[0], top[1])
    pencil.canvas.line(right, far, top, closed=True)
    inward = 6.0 if far[0] > right[0] else -6.0
    mark = (right[0] + inward, right[1] - 6)
    pencil.canvas.line((mark[0], right[1]), mark, (right[0], mark[1]))
    pencil.canvas.label(labels[0], between(far, (right[0], right[1] - 12), 0.38))
    pencil.canvas.label(labels[1], between(top, (right[0] + 2 * inward, right[1]), 0.38))


def _triangle(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """Two angles of a triangle, and x."""
    corners = (pencil.near(3, 51), pencil.near(52, 51), pencil.near(28, 4))
    pencil.angles(*corners, labels=labels, share=0.42)


def _exterior(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """A triangle with one side drawn on; x is outside, the labelled angles are the far ones."""
    left, right, top = pencil.mirrored(3, 48), pencil.mirrored(38, 48), pencil.mirrored(22, 4)
    right = (right[0], left[1])
    outward = 1.0 if right[0] > left[0] else -1.0
    pencil.canvas.line(left, top, right, closed=True)
    middle = centre((left, top, right))
    pencil.canvas.label(labels[0], between(left, middle, 0.45))
    pencil.canvas.label(labels[1], between(top, middle, 0.45))
    end = (right[0] + outward * 15, right[1])
    pencil.canvas.line(right, end)
    pencil.canvas.label(labels[2], (right[0] + outward * 8, right[1] - 7))


def _segment(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """A segment in two parts: one part and the whole are labelled, x is the other part."""
    start, cut, end = pencil.mirrored(4, 28), pencil.mirrored(30, 28), pencil.mirrored(51, 28)
    cut, end = (cut[0], start[1]), (end[0], start[1])
    pencil.canvas.line(start, end)
    for point in (start, cut, end):
        pencil.canvas.line((point[0], point[1] - 3), (point[0], point[1] + 3))
    pencil.canvas.label(labels[0], between(start, (cut[0], cut[1] - 18), 0.5))
    pencil.canvas.label(labels[2], between((cut[0], cut[1] - 18), end, 0.5))
    below = start[1] + 7
    low = below + 6
    pencil.canvas.line((start[0], below), (start[0], low), (end[0], low), (end[0], below))
    pencil.canvas.label(labels[1], ((start[0] + end[0]) / 2, low))


def _quadrilateral(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """Three angles of a quadrilateral, and x."""
    corners = (
        *(pencil.near(2, 52), pencil.near(53, 52)),
        *(pencil.near(48, 4), pencil.near(7, 4)),
    )
    pencil.angles(*corners, labels=labels, share=0.38)


def _perimeter(pencil: Pencil, labels: tuple[str, ...]) -> None:
    """The three sides of a triangle; x is the length all around, written in the middle."""
    left, right, top = pencil.near(6, 44), pencil.near(49, 44), pencil.near(28, 4)
    pencil.canvas.line(left, right, top, closed=True)
    inner = centre((left, right, top))
    for label, (a, b) in zip(labels, ((left, right), (right, top), (top, left)), strict=False):
        pencil.canvas.label(label, between(between(a, b, 0.5), inner, -0.35))
    pencil.canvas.label(labels[3], inner)


def _added(a: int, b: int, c: int) -> str:
    """The worked steps of a sum of three numbers."""
    return f"{a}+{b}={a + b},{a + b}+{c}={a + b + c}"


_ALL: Final = (
    Figure(
        "line",
        _angles((20, 160)),
        lambda a: 180 - a,
        lambda a: f"180-{a}={180 - a}",
        _on_a_line,
        1,
    ),
    Figure(
        "right",
        _angles((15, 75)),
        lambda a: 90 - a,
        lambda a: f"90-{a}={90 - a}",
        _right_triangle,
        1,
    ),
    Figure(
        "triangle",
        _two_of_a_triangle,
        lambda a, b: 180 - a - b,
        lambda a, b: f"{a}+{b}={a + b},180-{a + b}={180 - a - b}",
        _triangle,
        2,
    ),
    Figure(
        "exterior",
        _two_of_a_triangle,
        lambda a, b: a + b,
        lambda a, b: f"{a}+{b}={a + b}",
        _exterior,
        2,
    ),
    Figure(
        "segment",
        _part_and_whole,
        lambda a, b: b - a,
        lambda a, b: f"{b}-{a}={b - a}",
        _segment,
        2,
    ),
    Figure(
        "quadrilateral",
        _angles((50, 110), (50, 110), (50, 110)),
        lambda a, b, c: 360 - a - b - c,
        lambda a, b, c: f"{_added(a, b, c)},360-{a + b + c}={360 - a - b - c}",
        _quadrilateral,
        3,
    ),
    Figure(
        "perimeter",
        _angles((10, 99), (10, 99), (10, 99)),
        lambda a, b, c: a + b + c,
        _added,
        _perimeter,
        3,
    ),
)

FIGURES: Final[Mapping[str, Figure]] = {figure.name: figure for figure in _ALL}
