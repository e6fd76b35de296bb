"""The reference tables of docs/recipes.md, made from the declarations of the settings.

`python -m bapo.config.reference docs/recipes.md` writes them anew between their markers.
"""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast

from bapo.config.fields import meaning_of
from bapo.config.presets import PRESETS
from bapo.config.recipe import SECTIONS, Recipe
from bapo.config.settings import ModelSettings, TaskSettings
from bapo.config.warmstart import ArchitectureSettings, ColdStartSettings, WarmstartRecipe
from bapo.errors import RecipeError

_HEADER: Final = ("setting", "default", "range", "meaning")


def settings_table() -> str:
    """Every setting of a recipe: one Markdown table for the top level and one for each section."""
    parts = [
        _table(
            _HEADER,
            [
                _row(Recipe, "algorithm", _one_of(PRESETS), "the preset to start from"),
                _row(Recipe, "seed", "at least 0", "every generator of the run derives from it"),
                _row(Recipe, "steps", "at least 1", "training steps"),
            ],
        )
    ]
    kinds: dict[str, type] = {"model": ModelSettings, "task": TaskSettings, **SECTIONS}
    for section, kind in kinds.items():
        parts += [f"### {section}", _first_line(kind), section_table(kind, section)]
    return "\n\n".join(parts)


def warmstart_table() -> str:
    """Every setting of a warm-start recipe but the task's, which are those of a run."""
    parts = [
        _table(
            _HEADER,
            [
                _row(WarmstartRecipe, "seed", "at least 0", "seeds the initial weights"),
                _row(
                    WarmstartRecipe,
                    "steps",
                    "at least 1",
                    "optimizer steps, each on examples never seen before",
                ),
            ],
        )
    ]
    for section, kind in {"model": ArchitectureSettings, "training": ColdStartSettings}.items():
        parts += [
            f"### {section}, for a cold start",
            _first_line(kind),
            section_table(kind, section),
        ]
    return "\n\n".join(parts)


def presets_table() -> str:
    """What each preset sets; everything else keeps its default."""
    rows: list[Sequence[str]] = []
    for name, sections in PRESETS.items():
        changed = [
            f"`{section}.{key}={_written(value)}`"
            for section, values in sections.items()
            for key, value in values.items()
        ]
        rows.append((f"`{name}`", ", ".join(changed) or "the defaults"))
    return _table(("algorithm", "sets"), rows)


def section_table(kind: type, section: str) -> str:
    """A Markdown table of a settings dataclass.

    Args:
        kind: A dataclass whose fields are declared with `setting`.
        section: What stands before the dot of each name.
    """
    rows: list[Sequence[str]] = []
    for field in dataclasses.fields(cast("Any", kind)):
        meaning = meaning_of(field)
        rows.append(
            (
                f"`{section}.{field.name}`",
                f"`{_written(_default(field))}`",
                meaning.describe_range(),
                meaning.text.replace("<", "&lt;"),
            )
        )
    return _table(_HEADER, rows)


TABLES: Final = {
    "settings": settings_table,
    "presets": presets_table,
    "warm-start settings": warmstart_table,
}


def with_tables(page: str) -> str:
    """The page with each table made anew between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        RecipeError: The page lacks a marker.
    """
    for name, make in TABLES.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, opened, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise RecipeError(
                f"The page has no place for '{name}'; write {start.strip()} and {end}."
            )
        page = f"{before}{start}\n{make()}\n\n{end}{after}"
    return page


def _row(recipe: type, name: str, limits: str, text: str) -> Sequence[str]:
    """The row of a top-level setting, whose default stands in the recipe's dataclass."""
    field = next(item for item in dataclasses.fields(cast("Any", recipe)) if item.name == name)
    return (f"`{name}`", f"`{_written(_default(field))}`", limits, text)


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _written(value: Any) -> str:
    """A value as it is written in a recipe."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_written(item) for item in cast("Sequence[Any]", value)) + "]"
    return str(value) or '""'


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(names)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(with_tables(target.read_text(encoding="utf-8")), encoding="utf-8")
