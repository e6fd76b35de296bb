"""Runs that differ in nothing but the seed belong together; how the others differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bapo.reporting.runs import RunRecord
from bapo.reporting.text import visible

_SAME_SCIENCE = ("seed", "logging", "model.device")


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """Runs of one recipe under different seeds.

    Attributes:
        label: The algorithm's name, with the settings that set it apart where two variants share
            one.
        algorithm: The preset's name.
        runs: At least one.
    """

    label: str
    algorithm: str
    runs: tuple[RunRecord, ...]

    @property
    def has_seeds(self) -> bool:
        """Whether there is more than one run, so that a spread can be shown."""
        return len(self.runs) > 1


def flat_settings(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The recipe as `section.key` to text."""
    flat: dict[str, str] = {}
    for section, values in recipe.items():
        if isinstance(values, Mapping):
            flat.update({f"{section}.{key}": _as_text(value) for key, value in values.items()})
        else:
            flat[str(section)] = _as_text(values)
    return flat


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_as_text(item) for item in value) + "]"
    return "none" if value is None else visible(str(value))


def differing_settings(recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings whose value is not the same in all of the flat recipes, in their order."""
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    return [name for name in names if len({recipe.get(name) for recipe in recipes}) > 1]


def group_runs(runs: Sequence[RunRecord]) -> list[Variant]:
    """Groups runs by their whole recipe but the seed; BAPO first, the others as given."""
    groups: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    algorithms = [group[0].algorithm for group in groups.values()]
    variants: list[Variant] = []
    for identity, group in groups.items():
        algorithm = group[0].algorithm
        label = algorithm
        if algorithms.count(algorithm) > 1:
            siblings = [dict(key) for key in groups if dict(key).get("algorithm") == algorithm]
            label = _distinct_label(algorithm, dict(identity), siblings)
        variants.append(Variant(label, algorithm, tuple(group)))
    labels = [variant.label for variant in variants]
    if len(set(labels)) < len(labels):
        variants = [
            Variant(f"{variant.label} #{index}", variant.algorithm, variant.runs)
            for index, variant in enumerate(variants, start=1)
        ]
    return sorted(variants, key=lambda variant: variant.algorithm != "bapo")


def _identity(run: RunRecord) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, value)
        for name, value in sorted(flat_settings(run.recipe).items())
        if name not in _SAME_SCIENCE and name.split(".")[0] not in _SAME_SCIENCE
    )


def _distinct_label(
    algorithm: str, own: Mapping[str, str], siblings: Sequence[Mapping[str, str]]
) -> str:
    """The algorithm with at most two of the settings that set it apart from its siblings."""
    names = differing_settings(siblings)
    short = [f"{name.rsplit('.', 1)[-1]}={own.get(name, 'none')}"[:40] for name in names[:2]]
    return f"{algorithm} ({', '.join(short)}{', …' if len(names) > 2 else ''})"
