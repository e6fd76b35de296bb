"""`bapo inspect`: what a run's buffers and ledger hold."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bapo.cli.options import console


def inspect(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Show a run's buffers, bands, ledger, hardest and suspect prompts.

    Example: bapo inspect runs/countdown
    """
    from bapo.reporting import summarise_run

    for sheet in summarise_run(run).tables:
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
