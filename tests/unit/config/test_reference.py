"""The reference page says what the declarations say."""

import dataclasses
from pathlib import Path

import pytest

from bapo.config import SECTIONS, ModelSettings, TaskSettings, setting
from bapo.config.reference import presets_table, section_table, settings_table, with_tables
from bapo.errors import RecipeError

PAGE = Path(__file__).resolve().parents[3] / "docs" / "recipes.md"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A section."""

    rate: float = setting(1e-6, "a rate, a|b, between <x> tags", above=0, high=1)
    places: tuple[int, ...] = setting((3, 4), "places", low=2)
    text: str = setting("", "a text", choices=["", "x"])
    limit: int | None = setting(None, "a limit")


def test_the_committed_page_is_what_the_declarations_give():
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), (
        "docs/recipes.md is out of date; run: python -m bapo.config.reference docs/recipes.md"
    )


def test_a_section_table_has_default_range_and_meaning_of_each_setting():
    assert section_table(Sample, "s") == (
        "| setting | default | range | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `s.rate` | `1e-06` | above 0 and at most 1 | a rate, a\\|b, between &lt;x> tags |\n"
        "| `s.places` | `[3, 4]` | at least 2 | places |\n"
        '| `s.text` | `""` | one of , x | a text |\n'
        "| `s.limit` | `null` |  | a limit |"
    )


def test_every_setting_of_a_recipe_stands_in_the_table_once():
    table = settings_table()
    kinds = {"model": ModelSettings, "task": TaskSettings, **SECTIONS}
    names = [f"{s}.{f.name}" for s, kind in kinds.items() for f in dataclasses.fields(kind)]
    for name in ["algorithm", "seed", "steps", *names]:
        assert table.count(f"| `{name}` |") == 1, name


def test_the_presets_table_says_what_differs_from_the_defaults():
    lines = presets_table().splitlines()
    assert "| `bapo` | the defaults |" in lines
    assert "| `bapo_no_retry` | `adaptation.retry=false` |" in lines


def test_a_page_without_a_place_for_a_table_is_refused():
    with pytest.raises(RecipeError, match="no place for 'settings'"):
        with_tables("<!-- settings -->\nwithout an end")
