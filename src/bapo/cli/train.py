"""`bapo train`: one run."""

import shlex
from typing import Annotated

import typer

from bapo.cli.options import Output, Overrides, console, quiet_libraries, refuse_unchanged
from bapo.config import load_recipe, program


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    output: Output = ...,  # pyright: ignore[reportArgumentType]
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --output from its last checkpoint."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop before step 1 if a row of the data is bad.")
    ] = False,
) -> None:
    """Train a policy as a recipe says.

    Rows of the data that cannot be used are set aside, each with its reason, in quarantine.jsonl.

    Ctrl-C or SIGTERM lets the step finish and saves the run; with --resume it goes on, also after
    it was killed or the machine went down.

    Example: bapo train countdown algorithm=bapo steps=60 --output runs/countdown
    """
    given = [*(overrides or ()), *(["task.strict=true"] if strict else [])]
    resolved = load_recipe(recipe, given)
    from bapo.cli.progress import TerminalProgress, percent
    from bapo.training import train as run_training

    quiet_libraries()
    with TerminalProgress(resolved.algorithm) as progress:
        summary = run_training(resolved, output, resume=resume, progress=progress)
    console.print(
        f"Held-out pass@1: {percent(summary['held_out_before'])} before, "
        f"{percent(summary['held_out_after'])} after. Wrote [bold]{output}[/]; "
        f"look at it with: {program()} report {shlex.quote(str(output))} --output report.html"
    )
    refuse_unchanged(summary, output)
