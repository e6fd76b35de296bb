"""How values are written for people: model text made harmless, numbers in few digits."""

import math
import unicodedata
from collections.abc import Mapping
from html import escape as escape_html
from typing import Any

NOT_MEASURED = "–"
"""Stands where a value was not measured; never a zero."""

_NAMED = {"\r": "\\r", "\b": "\\b", "\f": "\\f", "\v": "\\v", "\0": "\\0", "\x1b": "\\x1b"}
# Controls, invisible format characters (direction overrides among them), lone surrogates, private
# and unassigned code points, line and paragraph separators: what could act on a terminal or mislead
# a reader.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str, *, keep_lines: bool = False) -> str:
    r"""`text` with every control and invisible character written out as an escape.

    Args:
        text: Anything, such as what a model sampled.
        keep_lines: Leave line feeds and tabs as they are; otherwise they become `\n` and `\t`.

    Returns:
        Text that cannot move a cursor, recolour a terminal, reverse the reading direction or break
        an XML file.
    """
    kept = "\n\t" if keep_lines else ""
    return "".join(char if char in kept else _visible_char(char) for char in text)


def _visible_char(char: str) -> str:
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    if unicodedata.category(char) not in _HIDDEN_CATEGORIES:
        return char
    if char in _NAMED:
        return _NAMED[char]
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def html_text(value: object, *, keep_lines: bool = False) -> str:
    """Any value as HTML text that is safe between tags and inside a quoted attribute."""
    return escape_html(visible(str(value), keep_lines=keep_lines), quote=True)


def number(record: Mapping[str, Any], name: str) -> float:
    """The finite number that `record` holds under `name`; NaN if it is missing, null or other."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] as `12.6 %`."""
    return NOT_MEASURED if math.isnan(share) else f"{100 * share:.{digits}f}\u00a0%"


def percent_range(low: float, high: float) -> str:
    """Two shares as `9.8 to 15.1 %`."""
    if math.isnan(low) or math.isnan(high):
        return NOT_MEASURED
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"


def count(value: float) -> str:
    """A whole number with thin thousands separators, in millions from ten million on."""
    if math.isnan(value):
        return NOT_MEASURED
    if abs(value) >= 1e7:
        return f"{value / 1e6:.1f}\u00a0million"
    return f"{value:,.0f}".replace(",", "\u202f")


def minutes(seconds: float) -> str:
    """A duration as `40 s`, `7.3 min` or `2.5 h`."""
    if math.isnan(seconds):
        return NOT_MEASURED
    if seconds < 90:
        return f"{seconds:.0f}\u00a0s" if seconds >= 10 else f"{seconds:.1f}\u00a0s"
    if seconds < 5400:
        return f"{seconds / 60:.1f}\u00a0min"
    return f"{seconds / 3600:.1f}\u00a0h"


def decimal(value: float, digits: int = 3) -> str:
    """A number in `digits` significant digits."""
    if value == 0:
        return "0"
    return NOT_MEASURED if math.isnan(value) else f"{value:#.{digits}g}".rstrip(".")
