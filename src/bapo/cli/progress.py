"""A run's progress in the terminal: one line a stage, one a measurement, and a moving bar."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from bapo.cli.options import console as terminal
from bapo.cli.options import harmless
from bapo.evaluation import Evaluation
from bapo.training import Metric

_SPLITS = {
    "held_out": "held-out problems",
    "training": "training problems",
    "training_again": "training problems, asked again",
}
_LINE_EVERY = 10
_WIDE = 112
"""Columns of a terminal from which a bar has room beside the words."""


class TerminalProgress:
    """Shows a run in the terminal; a context manager.

    In a terminal that cannot move its cursor the bar is left out and every tenth step is a line.
    A narrow one, such as of 80 columns, shows the numbers without the bar.

    Args:
        title: What stands before the bar.
        console: Where it is shown; the terminal.
    """

    def __init__(self, title: str, console: Console = terminal) -> None:
        self._console = console
        self._title = title
        wide = console.width >= _WIDE
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            *([BarColumn(bar_width=24)] if wide else []),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}"),
            *([TimeElapsedColumn(table_column=Column(no_wrap=True))] if wide else []),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None, note="", start=False)

    def __enter__(self) -> Self:
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def stage(self, text: str) -> None:
        """A stage of the run begins."""
        self._console.print(f"[dim]{self._title}: {harmless(text)}[/]")

    def warning(self, text: str) -> None:
        """The run does not do what it is there for."""
        self._console.print(f"[yellow]{self._title}: {harmless(text)}[/]")

    def trained(self, step: int, steps: int, metrics: Mapping[str, Metric]) -> None:
        """A training step is done."""
        note = batch_line(metrics)
        self._bar.start_task(self._task)  # only the first time does it start the clock
        self._bar.update(self._task, total=steps, completed=step, note=note)
        if not self._console.is_terminal and (step % _LINE_EVERY == 0 or step == steps):
            self._console.print(f"{self._title}: step {step}/{steps}  {note}")

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        self._console.print(
            f"{self._title}: step {step}  {_SPLITS.get(evaluation.split, evaluation.split)}  "
            f"pass@1 [bold]{percent(evaluation.pass_at_1)}[/]  "
            f"pass@{evaluation.samples} {percent(evaluation.pass_at_k)}  "
            f"always wrong {percent(evaluation.all_wrong_share)}"
        )


def batch_line(metrics: Mapping[str, Metric]) -> str:
    """The make-up of a batch and how right the fresh answers were, in a few words."""
    return (
        f"correct {percent(metrics['correctness_fresh'])}  batch "
        f"{metrics['groups_fresh']} fresh + {metrics['groups_retried']} retried + "
        f"{metrics['groups_reused']} reused"
    )


def percent(share: Metric) -> str:
    """A share in percent, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"
