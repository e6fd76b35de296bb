"""Arguments that several commands take."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bapo.config import program
from bapo.errors import NoUpdateError, RunFolderError, SettingError
from bapo.reporting.text import visible


def _can_be_made(path: Path) -> Path:
    """The folder that a command is to write, refused before hours are spent on its content."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RunFolderError(f"The folder '{path}' cannot be made: '{there}' is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"The folder '{path}' cannot be made: '{there}' cannot be written to; name another "
            "with --output."
        )
    return path


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as training.learning_rate=1e-5."),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder to write; must not exist.", callback=_can_be_made),
]

_WIDEST = 1000

# Lines are left whole: a path that was broken in two could not be copied.
console = Console(highlight=False, soft_wrap=True)


def harmless(text: object) -> str:
    """A text for `console` whose control codes and markup are shown and do nothing."""
    return escape(visible(str(text)))


def listed(text: str, name: str) -> list[str]:
    """The items of a comma-separated option."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise SettingError(f"The option {name} is empty; give names separated by commas.")
    if twice := [item for item in items if items.count(item) > 1]:
        raise SettingError(f"The option {name} names {twice[0]} twice; name each once.")
    return items


def refuse_taken(folder: Path) -> None:
    """Raises a `RunFolderError` where a folder holds something that would be written over."""
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(
            f"The folder '{folder}' is not empty; name another with --output, or remove it."
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, and not that of a model."""
    return (folder / "recipe.yaml").is_file()


def model_of_run(folder: Path) -> Path:
    """The folder of the policy, or of the adapter, that a run ended with.

    Raises:
        RunFolderError: The run has not ended.
    """
    if not (folder / "model").is_dir():
        raise RunFolderError(
            f"The run '{folder}' has no trained model; one is written when a run ends."
        )
    return folder / "model"


def refuse_unchanged(summary: Mapping[str, Any], folder: Path) -> None:
    """Raises a `NoUpdateError` for a run that never changed its policy, which is no success."""
    if not summary["updates"]:
        raise NoUpdateError(
            f"The run in '{folder}' went to its end, but no optimizer update was made in "
            f"{summary['steps']} steps; see what became of its groups with: {program()} inspect "
            f"{shlex.quote(str(folder))}"
        )


def show(table: Table) -> None:
    """Prints a table, as wide as it is where it goes to a file or another program."""
    width = None if console.is_terminal or "COLUMNS" in os.environ else _WIDEST
    Console(highlight=False, width=width).print(table, soft_wrap=False)


def quiet_libraries() -> None:
    """Keeps other libraries' progress bars and advice out of the terminal."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
