"""What the documents name is there: files, commands and their options, presets."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from bapo.cli import app
from bapo.config import PRESETS, find_recipe
from bapo.training.recipe_changes import _FREE, _SAID

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def links(text):
    return re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)


def command_lines(text):
    """The lines that call bapo, in code blocks and indented ones, without what they print."""
    found = re.findall(r"^(?: {4})?(bapo [a-z].*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in found]


def parse(words):
    """Parses a command line without running it.

    Returns:
        The values of its arguments and options.
    """
    return COMMANDS[words[0]].make_context(words[0], list(words[1:])).params


@each_page
def test_every_link_to_a_file_leads_somewhere(page):
    for link in links(page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), link


@each_page
def test_every_command_that_a_page_shows_can_be_given(page):
    for words in command_lines(page.read_text(encoding="utf-8")):
        if "RECIPE" in words:  # a synopsis
            continue
        recipe = parse(words).get("recipe")
        assert recipe is None or recipe.endswith(".yaml") or find_recipe(recipe).is_file()


def test_the_readme_shows_every_command_and_no_other():
    shown = {words[0] for words in command_lines((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_an_example_that_can_be_given(name):
    text = " ".join(COMMANDS[name].help.split())
    words = shlex.split(text.partition("Example: bapo ")[2])
    assert words[0] == name
    parse(words)


def test_a_wrong_command_line_is_noticed():
    with pytest.raises(Exception, match="No such option"):
        parse(["train", "countdown", "--outptu", "x"])
    with pytest.raises(Exception, match="Missing parameter: output"):
        parse(["train", "countdown"])


def test_the_readme_has_every_preset_in_order():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Presets")[1]
    rows = re.findall(r"^\| `(\w+)` \|", section.split("\n## ")[0], re.MULTILINE)
    assert rows == list(PRESETS)


def test_the_page_names_every_setting_that_may_change_on_resume():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    free, said = (
        set(re.findall(r"`([a-z_]+\.[a-z_*]+)`", line.split("|")[1]))
        for line in re.findall(r"^\| `[a-z]+\..*$", page, re.MULTILINE)
        if "allowed and said" in line or "free: they change" in line
    )
    assert {"logging.*", *(name for name in _FREE if not name.startswith("logging."))} == free
    assert said == _SAID
