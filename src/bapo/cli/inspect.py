"""`bapo inspect`: what a run's buffers and ledger hold."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bapo.cli.options import show
from bapo.errors import LedgerError
from bapo.reporting.tables import Table as Sheet


def inspect(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="Show only what became of this prompt.")
    ] = None,
) -> None:
    """Show what became of a run's rows and groups, its buffers, and whether its files agree.

    Exit code 1 if the files of the run do not agree with one another.

    With --prompt it shows when one prompt was asked and reused, what became of it, and its way
    through the buffers.

    Example: bapo inspect runs/countdown --prompt cd4-2.3.5.7-24
    """
    from bapo.reporting import prompt_table, summarise_run

    if prompt is not None:
        show(_rendered(prompt_table(run, prompt)))
        return
    summary = summarise_run(run)
    for sheet in summary.tables:
        show(_rendered(sheet))
    if summary.problems:
        raise LedgerError(
            f"The files of the run '{run}' do not agree in {len(summary.problems)} places; the "
            "last table names them."
        )


def _rendered(sheet: Sheet) -> Table:
    table = Table(
        title=Text(sheet.title, no_wrap=True, overflow="ignore"),
        title_justify="left",
        caption=Text(sheet.note),
        caption_justify="left",
        header_style="bold",
    )
    for name in sheet.columns:
        table.add_column(name)
    for row in sheet.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
