"""`bapo report`: one page about one or many runs."""

from pathlib import Path
from typing import Annotated

import typer

from bapo.cli.options import console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about one or many runs.

    Example: bapo report runs/compare --output report.html
    """
    from bapo.reporting import write_report

    console.print(f"Wrote the report [bold]{write_report(runs, output)}[/].")
