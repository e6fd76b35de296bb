from dataclasses import dataclass, fields
from typing import Any

import pytest

from bapo.config.fields import Meaning, meaning_of, nearest_name, parse_section, setting
from bapo.errors import BapoError, SettingError


@dataclass(frozen=True, slots=True)
class Section:
    switch: bool = setting(False, "a switch")
    count: int = setting(3, "a count", low=1, high=9)
    rate: float = setting(0.5, "a rate", low=0, high=1)
    speed: float = setting(1.0, "a speed", above=0)
    choice: str = setting("left", "a side", choices=["left", "right"])
    maybe: int | None = setting(None, "a count or nothing", low=1)
    pair: tuple[float, float] = setting((0.0, 1.0), "two rates", low=0, high=1)
    names: tuple[str, ...] = setting((), "names")
    options: dict[str, Any] = setting({}, "anything")


def parse(**values):
    return parse_section(Section, values, "section")


def message(**values):
    with pytest.raises(SettingError) as caught:
        parse(**values)
    return str(caught.value)


def test_what_is_not_given_keeps_its_default():
    assert parse() == Section()
    assert parse(count=4) == Section(count=4)


def test_an_unknown_name_is_answered_with_the_nearest_one():
    assert message(swich=True) == "Unknown setting 'section.swich': did you mean 'switch'?"


def test_a_name_like_no_other_is_answered_with_all_of_them():
    assert message(zzz=1) == (
        "Unknown setting 'section.zzz': known are choice, count, maybe, names, options, pair, "
        "rate, speed, switch."
    )


def test_a_name_that_is_not_even_a_text_is_unknown():
    with pytest.raises(SettingError, match=r"Unknown setting 'section\.5'"):
        parse_section(Section, {5: 1}, "section")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", "1e-6", 1e-6),  # YAML 1.1 reads 1e-6 as a text
        ("rate", 1, 1.0),
        ("speed", "3.5e+2", 350.0),
        ("maybe", None, None),
        ("maybe", 2, 2),
        ("pair", [0, 1], (0.0, 1.0)),
        ("pair", ["1e-3", 0.25], (0.001, 0.25)),
        ("names", ["a", "b"], ("a", "b")),
        ("names", [], ()),
        ("options", {"a": [1]}, {"a": [1]}),
        ("switch", True, True),
    ],
)
def test_values_become_the_declared_type(name, value, expected):
    parsed = getattr(parse(**{name: value}), name)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("switch", 1, "'section.switch' must be true or false, but is 1."),
        ("switch", "yes", "'section.switch' must be true or false, but is 'yes'."),
        (
            "switch",
            None,
            "'section.switch' is empty, but must be true or false; give it, or leave it out.",
        ),
        ("count", 2.0, "'section.count' must be a whole number, but is 2.0."),
        ("count", True, "'section.count' must be a whole number, but is True."),
        ("count", "4", "'section.count' must be a whole number, but is '4'."),
        (
            "count",
            None,
            "'section.count' is empty, but must be a whole number; give it, or leave it out.",
        ),
        ("rate", True, "'section.rate' must be a number, but is True."),
        ("rate", "fast", "'section.rate' must be a number, but is 'fast'."),
        ("rate", [0.5], "'section.rate' must be a number, but is [0.5]."),
        ("choice", 1, "'section.choice' must be a text, but is 1."),
        ("maybe", "x", "'section.maybe' must be a whole number, but is 'x'."),
        ("pair", 0.5, "'section.pair' must be a list, but is 0.5; write it as [a, b]."),
        ("pair", "0.1", "'section.pair' must be a list, but is '0.1'; write it as [a, b]."),
        ("pair", [0.1], "'section.pair' must have 2 values, but has 1: [0.1]."),
        ("pair", [0.1, "b"], "'section.pair' must be a number, but is 'b'."),
        ("names", "abc", "'section.names' must be a list, but is 'abc'; write it as [a, b]."),
        ("names", ["a", 1], "'section.names' must be a text, but is 1."),
        ("options", [1], "'section.options' must be a mapping, but is [1]."),
    ],
)
def test_a_value_of_the_wrong_type_gives_one_sentence(name, value, fragment):
    assert message(**{name: value}) == fragment


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("count", 0, "'section.count' is 0, but must be 1 to 9."),
        ("count", 10, "'section.count' is 10, but must be 1 to 9."),
        ("rate", -0.1, "'section.rate' is -0.1, but must be 0 to 1."),
        ("rate", "1.5", "'section.rate' is 1.5, but must be 0 to 1."),
        ("rate", "nan", "'section.rate' is nan, but must be a finite number."),
        ("speed", 0, "'section.speed' is 0.0, but must be above 0."),
        ("choice", "up", "'section.choice' is 'up', but must be one of left, right."),
        ("maybe", 0, "'section.maybe' is 0, but must be at least 1."),
        ("pair", [0.5, 1.5], "'section.pair' is 1.5, but must be 0 to 1."),
    ],
)
def test_a_value_out_of_range_gives_one_sentence_with_the_range(name, value, fragment):
    assert message(**{name: value}) == fragment


@pytest.mark.parametrize("value", ["inf", "-inf", float("inf"), "nan"])
def test_no_number_may_be_infinite_or_nan(value):
    assert message(speed=value).endswith(f" is {float(value)!r}, but must be a finite number.")


def test_a_whole_number_too_large_for_a_float_gives_one_sentence():
    assert message(speed=10**400).startswith("'section.speed' must be a number, but is 1000")


@pytest.mark.parametrize(("name", "value"), [("count", 1), ("count", 9), ("rate", 0), ("rate", 1)])
def test_the_ends_of_a_range_belong_to_it(name, value):
    assert getattr(parse(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("meaning", "words"),
    [
        (Meaning("", choices=("a", "b")), "one of a, b"),
        (Meaning("", low=0, high=1), "0 to 1"),
        (Meaning("", low=1), "at least 1"),
        (Meaning("", high=4), "at most 4"),
        (Meaning("", above=0), "above 0"),
        (Meaning("", above=0, high=10), "above 0 and at most 10"),
        (Meaning(""), ""),
    ],
)
def test_a_range_is_described_in_words(meaning, words):
    assert meaning.describe_range() == words


def test_a_dict_default_is_not_shared_between_instances():
    one, other = Section(), Section()
    one.options["a"] = 1
    assert other.options == {}


def test_every_field_carries_its_meaning():
    assert [meaning_of(field).text for field in fields(Section)][:2] == ["a switch", "a count"]


def test_the_nearest_name_is_found_or_all_are_listed():
    assert nearest_name("grop_size", ["group_size", "stop"]) == "did you mean 'group_size'?"
    assert nearest_name("xyz", ["b", "a"]) == "known are a, b."


def test_a_setting_error_is_a_bapo_error_a_value_error_and_the_users_mistake():
    assert issubclass(SettingError, BapoError)
    assert issubclass(SettingError, ValueError)
    assert SettingError.exit_code == 2
