import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bapo.reporting.text import count, decimal, html_text, minutes, number, percent, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3*5=15", "3*5=15"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x00\x07\x7f\x9b", "\\0\\x07\\x7f\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("größer ≥ 数", "größer ≥ 数"),
    ],
)
def test_control_and_invisible_characters_are_written_out(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_lines_are_kept_where_asked_but_no_other_control() -> None:
    assert visible("a\nb\tc\r\x1b", keep_lines=True) == "a\nb\tc\\r\\x1b"


@given(st.text(st.characters(), max_size=40))
def test_nothing_visible_returns_can_act_on_a_terminal_or_break_utf8(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(char) not in ("Cc", "Cf", "Cs") for char in shown)
    shown.encode("utf-8")


def test_html_text_closes_tags_and_attributes() -> None:
    assert html_text("<b a=\"1\" c='2'>&") == "&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;"


@pytest.mark.parametrize("value", [None, "3", True, math.nan, math.inf, [1]])
def test_what_is_no_finite_number_counts_as_not_measured(value: object) -> None:
    assert math.isnan(number({"entropy": value}, "entropy"))


def test_a_missing_metric_counts_as_not_measured_and_a_number_is_taken() -> None:
    assert math.isnan(number({}, "entropy"))
    assert number({"entropy": 2}, "entropy") == 2.0


def test_numbers_are_short_and_what_was_not_measured_is_a_dash() -> None:
    assert percent(0.1264) == "12.6\u00a0%"
    assert count(33848) == "33\u202f848"
    assert count(12_345_678) == "12.3\u00a0million"
    assert decimal(3.0) == "3.00"
    assert decimal(123.0) == "123"
    assert decimal(0.0) == "0"
    assert [minutes(value) for value in (4.04, 40.0, 324.0, 9000.0)] == [
        "4.0\u00a0s",
        "40\u00a0s",
        "5.4\u00a0min",
        "2.5\u00a0h",
    ]
    assert {percent(math.nan), count(math.nan), minutes(math.nan), decimal(math.nan)} == {"–"}
