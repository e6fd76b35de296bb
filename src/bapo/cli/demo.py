"""`bapo demo`: the main job on what is embedded, ending in a report."""

from pathlib import Path
from typing import Annotated

import typer

from bapo.cli.options import Overrides, console, quiet_libraries
from bapo.config import load_recipe

RECIPE = "countdown-demo"


def demo(
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write; a number is added if taken.")
    ] = Path("demo"),
) -> None:
    """Train the embedded model with BAPO on Countdown, and write a report of what it learned.

    Example: bapo demo --output demo
    """
    recipe = load_recipe(RECIPE, overrides or ())
    from bapo.cli.progress import TerminalProgress, percent
    from bapo.reporting import write_report
    from bapo.training import train

    quiet_libraries()
    folder = _free(output)
    console.print(
        "A small model that fails most of these planning problems is trained with BAPO. "
        f"The run is written to [bold]{folder}[/]."
    )
    with TerminalProgress("bapo", console) as progress:
        summary = train(recipe, folder, progress=progress)
    page = write_report([folder], folder / "report" / "report.html")
    before, after = summary["held_out_before"], summary["held_out_after"]
    console.rule("What it learned")
    console.print(
        f"Held-out problems, pass@1: [bold]{percent(before)}[/] before, "
        f"[bold]{percent(after)}[/] after"
        + (f" ({after / before:.2f} times)" if before and after else "")
    )
    console.print(_unsolved_line(summary))
    console.print(f"Report: [bold]{page}[/]")


def _unsolved_line(summary: dict[str, int]) -> str:
    """How many always failed training problems are solved now, beside the control."""
    from bapo.cli.progress import percent

    unsolved = summary["unsolved"]
    if not unsolved:
        return "Training problems that the base always failed: none."
    solved = summary["unsolved_solved"] / unsolved
    control = summary["unsolved_solved_by_base"] / unsolved
    return (
        f"Training problems that the base always failed: {unsolved}; solved now: "
        f"[bold]{percent(solved)}[/] (by asking the base once more: {percent(control)})"
    )


def _free(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 and so on that is not there yet."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate
