"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bapo.errors import SettingError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as training.learning_rate=1e-5."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist.")]

console = Console(highlight=False)


def listed(text: str, name: str) -> list[str]:
    """The items of a comma-separated option."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise SettingError(f"The option {name} is empty; give names separated by commas.")
    return items


def quiet_libraries() -> None:
    """Keeps other libraries' progress bars and advice out of the terminal."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
