"""`bapo inspect`: what a run's buffers and ledger hold."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bapo.cli.options import console
from bapo.errors import LedgerError


def inspect(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show what became of a run's rows and groups, its buffers, and whether its files agree.

    Exit code 1 if the files of the run do not agree with one another.

    Example: bapo inspect runs/countdown
    """
    from bapo.reporting import summarise_run

    summary = summarise_run(run)
    for sheet in summary.tables:
        table = Table(
            title=Text(sheet.title),
            title_justify="left",
            caption=Text(sheet.note),
            caption_justify="left",
            header_style="bold",
        )
        for name in sheet.columns:
            table.add_column(name)
        for row in sheet.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table, soft_wrap=False)
    if summary.problems:
        raise LedgerError(
            f"The files of the run '{run}' do not agree in {len(summary.problems)} places; the "
            "last table names them."
        )
