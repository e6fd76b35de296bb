"""How a settings dataclass is declared, parsed and checked.

A setting is declared once, with its default, its meaning and its range; parsing, error messages
and the reference table in docs/recipes.md all come from that declaration.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bapo.errors import SettingError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Meaning:
    """The documentation and the range of one setting.

    Attributes:
        text: One line that says what the setting does, with its unit.
        low: Smallest value allowed, for numbers and for each element of a tuple of numbers.
        high: Largest value allowed.
        above: Value that must be exceeded.
        choices: The only values allowed, for strings.
    """

    text: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | None = None

    def describe_range(self) -> str:
        """The range in words: `one of a, b`, `0 to 1`, `above 0`, `at least 1`, or nothing."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        lower = None if self.low is None else f"{self.low:g}"
        if self.above is not None:
            return f"above {self.above:g}" + (
                "" if self.high is None else f" and at most {self.high:g}"
            )
        if lower is not None and self.high is not None:
            return f"{lower} to {self.high:g}"
        if lower is not None:
            return f"at least {lower}"
        return "" if self.high is None else f"at most {self.high:g}"


def setting(
    default: T,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
) -> T:
    """Declares a setting of a settings dataclass.

    Args:
        default: The one default; a dict is copied for every instance.
        text: One line that says what the setting does.
        low: Smallest value allowed.
        high: Largest value allowed.
        above: Value that must be exceeded.
        choices: The only values allowed.

    Returns:
        A dataclass field, typed as its value.
    """
    meaning = Meaning(text, low, high, above, tuple(choices) if choices else None)
    metadata = {"meaning": meaning}
    if isinstance(default, dict):
        copied = cast("dict[str, Any]", default)
        return cast("T", dataclasses.field(default_factory=lambda: dict(copied), metadata=metadata))
    return cast("T", dataclasses.field(default=default, metadata=metadata))


def meaning_of(field: "dataclasses.Field[Any]") -> Meaning:
    """The `Meaning` of a field declared with `setting`."""
    return cast("Meaning", field.metadata["meaning"])


def nearest_name(name: str, known: Sequence[str]) -> str:
    """The end of an error sentence: the known name nearest to `name`, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else "known are " + ", ".join(sorted(known)) + "."


def parse_section(
    kind: type[T], values: Mapping[str, Any], where: str, beside: Sequence[str] = ()
) -> T:
    """Builds a settings dataclass from plain values and checks each against its declaration.

    Args:
        kind: A dataclass whose fields are declared with `setting`.
        values: The values given; what is missing keeps its default.
        where: The section's name, for messages.
        beside: Further names of the section, read elsewhere, that an unknown one may be meant for.

    Returns:
        The settings, every value of the declared type and in its range.

    Raises:
        SettingError: An unknown name, a value of the wrong type or out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    hints = typing.get_type_hints(kind)
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else name
        if name not in fields:
            known = nearest_name(str(name), [*fields, *beside])
            raise SettingError(f"Unknown setting '{path}': {known}")
        parsed[name] = _convert(value, hints[name], path)
        _check_range(parsed[name], meaning_of(fields[name]), path)
    return kind(**parsed)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type that `hint` names, or a `SettingError`."""
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not types.NoneType)
        return _convert(value, hint, path)
    if origin is tuple:
        return _convert_tuple(value, typing.get_args(hint), path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SettingError(f"'{path}' must be a mapping, but is {value!r}.")
        return dict(cast("Mapping[str, Any]", value))
    return _convert_scalar(value, hint, path)


def _convert_tuple(value: Any, arms: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise SettingError(f"'{path}' must be a list, but is {value!r}; write it as [a, b].")
    items = cast("Sequence[Any]", value)
    if arms[-1] is Ellipsis:
        return tuple(_convert(item, arms[0], path) for item in items)
    if len(items) != len(arms):
        raise SettingError(
            f"'{path}' must have {len(arms)} values, but has {len(items)}: {value!r}."
        )
    return tuple(_convert(item, arm, path) for item, arm in zip(items, arms, strict=True))


def _convert_scalar(value: Any, hint: Any, path: str) -> Any:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if value is None:
        raise SettingError(
            f"'{path}' is empty, but must be {names[hint]}; give it, or leave it out."
        )
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and (is_number or isinstance(value, str)):
        try:
            return float(value)  # YAML reads 1e-6, without a dot, as a text
        except (ValueError, OverflowError):
            pass
    elif (hint is int and is_number and isinstance(value, int)) or (
        hint in (bool, str) and isinstance(value, hint)
    ):
        return value
    raise SettingError(f"'{path}' must be {names[hint]}, but is {value!r}.")


def _check_range(value: Any, meaning: Meaning, path: str) -> None:
    """Raises a `SettingError` where `value`, or an element of it, is outside its declared range."""
    if value is None or isinstance(value, (bool, dict)):
        return
    if isinstance(value, tuple):
        for item in cast("tuple[Any, ...]", value):
            _check_range(item, meaning, path)
        return
    bad = meaning.choices is not None and value not in meaning.choices
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"'{path}' is {value!r}, but must be a finite number.")
    if isinstance(value, (int, float)):
        bad = (
            (meaning.low is not None and value < meaning.low)
            or (meaning.high is not None and value > meaning.high)
            or (meaning.above is not None and value <= meaning.above)
        )
    if bad:
        raise SettingError(f"'{path}' is {value!r}, but must be {meaning.describe_range()}.")
