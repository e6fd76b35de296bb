"""`bapo demo`: the main job on what is embedded, ending in a report."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bapo.cli.options import Overrides, console, is_run, quiet_libraries, refuse_unchanged
from bapo.config import load_recipe, program
from bapo.errors import RunFolderError, RunInterruptedError

RECIPE = "countdown-demo"


def demo(
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write; a number is added if taken.")
    ] = Path("demo"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the demo in --output that was ended.")
    ] = False,
) -> None:
    """Train the embedded model with BAPO on Countdown, and write a report of what it learned.

    Ctrl-C saves it; with --resume it goes on, in the folder and with the settings that it has.

    Example: bapo demo --output demo
    """
    if resume and not is_run(output):
        raise RunFolderError(
            f"There is no demo in '{output}' that could be resumed; start it without --resume."
        )
    recipe = load_recipe(output / "recipe.yaml" if resume else RECIPE, overrides or ())
    from bapo.cli.progress import TerminalProgress, percent
    from bapo.reporting import write_report
    from bapo.training import train

    quiet_libraries()
    folder = output if resume else _free(output)
    console.print(
        "A small model that fails most of these planning problems is trained with BAPO. "
        f"The run is written to [bold]{folder}[/]."
    )
    with TerminalProgress("bapo") as progress:
        try:
            summary = train(recipe, folder, resume=resume, progress=progress)
        except RunInterruptedError:
            raise RunInterruptedError(
                "The demo was interrupted and is saved; go on with: "
                f"{program()} demo --output {shlex.quote(str(folder))} --resume"
            ) from None
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
    refuse_unchanged(summary, folder)


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
