"""Draws labelled figures with Pillow, pixel by pixel the same on every machine.

Nothing is taken from the system: the glyphs are a small font of this module's own, and lines are
drawn without smoothing. A canvas is square; what is drawn on it is given in units of which it has
`UNITS` a side, and a larger picture shows the same figure with thicker lines and larger glyphs.

Labels stand in a grid of cells, one glyph a cell, so that a small model whose patches are the cells
can learn to read them in minutes.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

CELL: Final = 7
"""Units a side of a glyph's cell; the glyph itself is five wide and seven high."""

UNITS: Final = 8 * CELL
"""Units a side of a canvas."""

Point = tuple[float, float]

_WHITE, _BLACK, _GREY = (255, 255, 255), (0, 0, 0), (150, 150, 150)
_GLYPH_WIDTH = 5
# Seven rows of five pixels, from the top; a hexadecimal pair a row, the highest bit on the left.
_GLYPHS: Final = {
    "0": "0e 11 13 15 19 11 0e",
    "1": "04 0c 04 04 04 04 0e",
    "2": "0e 11 01 02 04 08 1f",
    "3": "1f 02 04 02 01 11 0e",
    "4": "02 06 0a 12 1f 02 02",
    "5": "1f 10 1e 01 01 11 0e",
    "6": "06 08 10 1e 11 11 0e",
    "7": "1f 01 02 04 08 08 08",
    "8": "0e 11 11 0e 11 11 0e",
    "9": "0e 11 11 0f 01 02 0c",
    "x": "00 00 11 0a 04 0a 11",
}


class Canvas:
    """A white square picture to draw on.

    Args:
        size: Pixels a side, at least `UNITS`.
    """

    def __init__(self, size: int) -> None:
        from PIL import Image, ImageDraw

        self.image: Any = Image.new("RGB", (size, size), _WHITE)
        self._draw = ImageDraw.Draw(self.image)
        self._size = size
        self._thickness = max(1, size // UNITS)

    def line(self, *points: Point, closed: bool = False) -> None:
        """A line through points, back to the first one where it is closed."""
        pixels = [self._pixel(point) for point in (*points, points[0])]
        self._draw.line(pixels if closed else pixels[:-1], _GREY, self._thickness)

    def label(self, text: str, middle: Point) -> None:
        """Digits and `x`, in the cells nearest to a point that hold them all.

        The ground under them is cleared, so that no line runs through a digit.
        """
        cells = UNITS // CELL
        left = round_half_up(middle[0] / CELL - len(text) / 2)
        top = round_half_up(middle[1] / CELL - 0.5)
        left = min(max(left, 0), cells - len(text)) * CELL
        top = min(max(top, 0), cells - 1) * CELL
        first = self._pixel((left, top))
        last = self._pixel((left + CELL * len(text), top + CELL))
        self._draw.rectangle((*first, last[0] - 1, last[1] - 1), _WHITE)
        for place, character in enumerate(text):
            self._glyph(character, *self._pixel((left + CELL * place + 1, top)))

    def _glyph(self, character: str, left: int, top: int) -> None:
        scale = self._thickness
        for row, bits in enumerate(bytes.fromhex(_GLYPHS[character])):
            for column in range(_GLYPH_WIDTH):
                if bits >> (_GLYPH_WIDTH - 1 - column) & 1:
                    x, y = left + scale * column, top + scale * row
                    self._draw.rectangle((x, y, x + scale - 1, y + scale - 1), _BLACK)

    def _pixel(self, point: Point) -> tuple[int, int]:
        factor = self._size / UNITS
        return round_half_up(point[0] * factor), round_half_up(point[1] * factor)


def round_half_up(value: float) -> int:
    """The nearest whole number; halves go up, the same everywhere."""
    return math.floor(value + 0.5)


def between(start: Point, end: Point, share: float) -> Point:
    """The point that lies a share of the way from start to end."""
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def centre(points: Sequence[Point]) -> Point:
    """The mean of some points."""
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
