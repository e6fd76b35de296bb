"""The command line: one file per command, and one place that turns errors into exit codes."""

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer
from rich.console import Console

from bapo.cli.compare import compare
from bapo.cli.demo import demo
from bapo.cli.evaluate import evaluate
from bapo.cli.inspect import inspect
from bapo.cli.merge import merge
from bapo.cli.options import harmless
from bapo.cli.report import report
from bapo.cli.selftest import selftest
from bapo.cli.train import train
from bapo.cli.warmstart import warmstart
from bapo.errors import BapoError

app = typer.Typer(
    name="bapo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(compare)
app.command(name="eval")(evaluate)
app.command()(report)
app.command(name="inspect")(inspect)
app.command()(merge)
app.command()(warmstart)
app.command()(demo)
app.command()(selftest)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bapo {version('bapo')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Off-policy reinforcement learning with verifiable rewards (BAPO, arXiv 2602.20722)."""


def _print_whatever_comes() -> None:
    """A sign that the terminal's encoding lacks becomes a question mark and does not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def main() -> None:
    """Runs the command line.

    Exit codes: 0 success, 1 a failed run, 2 the user's mistake, 3 a run that stopped itself.
    """
    _print_whatever_comes()
    try:
        app()
    except BapoError as error:
        stderr = Console(stderr=True, highlight=False, soft_wrap=True)
        stderr.print(f"[bold red]bapo:[/] {harmless(error)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
