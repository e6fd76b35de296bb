"""`bapo selftest`: the proof of what docs/reliability.md promises, on this machine."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from bapo.cli.options import console, harmless, quiet_libraries
from bapo.errors import SettingError
from bapo.reporting.text import visible

if TYPE_CHECKING:
    from bapo.selftest import Bench, Check, Form, Result

STYLES = {"held": "green", "failed": "bold red", "not possible here": "yellow"}


def selftest(
    quick: Annotated[bool, typer.Option("--quick", help="Less than a minute.")] = False,
    long: Annotated[bool, typer.Option("--long", help="All that there is; some minutes.")] = False,
    only: Annotated[str, typer.Option(help="Only checks with this text in their row.")] = "",
    folder: Annotated[
        Path | None, typer.Option(help="Where to work: a folder on the disk that is to be tried.")
    ] = None,
) -> None:
    """Prove on this machine that runs survive being killed, and verifiers can be.

    Tiny runs are killed in real processes and resumed, their checkpoints spoiled, their disks
    filled, their verifiers hung and crashed. The table says what was tried and what held; the exit
    code is 1 where something did not.

    Example: bapo selftest --quick
    """
    if quick and long:
        raise SettingError("The options --quick and --long exclude each other; give one.")
    if folder is not None and not folder.is_dir():
        raise SettingError(f"There is no folder '{folder}'; make it, or leave out --folder.")
    from bapo.cli import main
    from bapo.selftest import Bench, Form

    quiet_libraries()
    form = Form.QUICK if quick else Form.LONG if long else Form.DEFAULT
    chosen = _chosen(form, only)
    place = Path(tempfile.mkdtemp(prefix="bapo-selftest-", dir=folder))
    results = _carried_out(chosen, Bench(place, main))
    for area, rows in groupby(results, key=lambda one: one.check.area):
        console.print(_table(area, list(rows)), soft_wrap=False)
    counts = {name: sum(one.outcome == name for one in results) for name in STYLES}
    console.print(", ".join(f"[{STYLES[name]}]{count} {name}[/]" for name, count in counts.items()))
    if counts["failed"]:
        console.print(f"What the failed runs left is in [bold]{harmless(place)}[/].")
        raise typer.Exit(1)
    shutil.rmtree(place)


def _chosen(form: "Form", only: str) -> "list[Check]":
    from bapo.selftest import checks

    found = [
        check
        for check in checks(form)
        if only.lower() in f"{check.area} {check.name} {check.tried}".lower()
    ]
    if not found:
        raise SettingError(
            f"No check has '{only}' in its row; leave out --only to see all of them."
        )
    return found


def _carried_out(chosen: "list[Check]", bench: "Bench") -> "list[Result]":
    """Carries the checks out, and shows which one it is at."""
    from bapo.selftest import carry_out

    results: list[Result] = []
    status: Any = console.status("") if console.is_terminal else nullcontext()
    with status:
        for number, check in enumerate(chosen, start=1):
            if console.is_terminal:
                status.update(f"{number}/{len(chosen)}  {check.area}: {check.name}")
            result = carry_out(check, bench)
            if not console.is_terminal:
                console.print(f"{number}/{len(chosen)}  {check.name}: {result.outcome}")
            results.append(result)
    return results


def _table(area: str, results: "Sequence[Result]") -> Table:
    table = Table(title=Text(area), title_justify="left", title_style="bold", expand=True)
    table.add_column("what happens", ratio=4)
    table.add_column("what is done, and what must hold", ratio=6)
    table.add_column("outcome", ratio=4)
    table.add_column("seconds", justify="right")
    for one in results:
        outcome = Text(one.outcome.value, style=STYLES[one.outcome])
        if one.detail:
            outcome.append(f": {visible(one.detail)}", style="dim")
        table.add_row(Text(one.check.name), Text(one.check.tried), outcome, f"{one.seconds:.1f}")
    return table
