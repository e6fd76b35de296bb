"""Which prompts of a task a run can use, and what became of every row they were made from.

A task sets rows aside that are no prompts at all (`RowReport.bad`). What only the model or the
verifier can tell, such as a prompt that is too long or a gold answer that cannot be read, is found
by checks that are handed in. Either way the row is quarantined with its reason, and the rest is
used, unless too many rows are bad.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from bapo.errors import DataError
from bapo.tasks.base import Task
from bapo.tasks.sources import BadRow, excerpt
from bapo.types import Prompt

Check = Callable[[Sequence[Prompt]], Mapping[str, str]]
"""Gives a reason, with the cure, for every prompt that cannot be used, by its id."""


@dataclass(frozen=True, slots=True)
class RowReport:
    """What became of the rows of one source.

    Attributes:
        name: The file, the Hub name or the task.
        unit: What a row's number counts: `line`, `row` or `problem`.
        rows: All rows that were read.
        lines: The row's number for each usable prompt, by its id.
        bad: The rows that cannot be used.
    """

    name: str
    unit: str
    rows: int
    lines: Mapping[str, int]
    bad: tuple[BadRow, ...] = ()

    def refuse_if_bad(self, max_bad_share: float) -> None:
        """Stops where too many rows are bad, or all of them.

        Args:
            max_bad_share: The share that is put up with, in [0, 1].

        Raises:
            DataError: The first bad row, its reason, and how many there are.
        """
        bad = len(self.bad)
        if not bad or (bad <= max_bad_share * self.rows and bad < self.rows):
            return
        first = min(self.bad, key=lambda row: row.line)
        also = f" (nor can {bad - 1} more)" if bad > 1 else ""
        limit = ""
        if max_bad_share and bad < self.rows:
            limit = (
                f"; {bad} of {self.rows} rows are bad, more than 'task.max_bad_share' "
                f"({max_bad_share:g}) allows"
            )
        raise DataError(
            f"{self.unit.capitalize()} {first.line} of '{self.name}' cannot be used{also}: "
            f"{first.reason}{limit}."
        )


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that is not used.

    Attributes:
        source: The file, the Hub name or the task.
        row: Its number in the source, from 1.
        prompt_id: Its prompt's id; None where it is no prompt.
        reason: Why, with the cure.
        content: How it begins, as text.
    """

    source: str
    row: int
    prompt_id: str | None
    reason: str
    content: str


@dataclass(frozen=True, slots=True)
class UsedRow:
    """A row that is used.

    Attributes:
        source: The file, the Hub name or the task.
        row: Its number in the source, from 1.
        prompt_id: Its prompt's id.
        use: `training` or `held_out`.
    """

    source: str
    row: int
    prompt_id: str
    use: str


@dataclass(frozen=True, slots=True)
class SourceCount:
    """The rows of one source.

    Attributes:
        source: The file, the Hub name or the task.
        rows: All that were read.
        not_asked: Held-out rows beyond those that the run measures.
    """

    source: str
    rows: int
    not_asked: int


@dataclass(frozen=True, slots=True)
class ScreenedData:
    """The prompts of a run, and the account of all rows.

    Attributes:
        training: Prompts to train on.
        held_out: Prompts to be measured on.
        sources: How many rows there are.
        used: One for each prompt above.
        quarantined: One for each row that is not used.
    """

    training: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    sources: tuple[SourceCount, ...]
    used: tuple[UsedRow, ...]
    quarantined: tuple[QuarantinedRow, ...]


def screen(
    task: Task, held_out: int, checks: Sequence[Check], max_bad_share: float
) -> ScreenedData:
    """Takes the prompts of a task that pass all checks.

    Args:
        task: The task.
        held_out: Held-out prompts at most.
        checks: What model and verifier have against a prompt; the first reason counts.
        max_bad_share: The share of a source's rows that may be bad, in [0, 1].

    Raises:
        DataError: Too many rows are bad, or no prompt is left to train on.
    """
    sides = {"training": task.training_prompts(), "held_out": task.evaluation_prompts(held_out)}
    reports = _reports(task, sides)
    kept: dict[str, tuple[Prompt, ...]] = {}
    used: list[UsedRow] = []
    quarantined = [
        QuarantinedRow(report.name, row.line, None, row.reason, row.content)
        for report in reports
        for row in report.bad
    ]
    asked = dict.fromkeys(range(len(reports)), 0)
    for place, (use, prompts) in zip((0, len(reports) - 1), sides.items(), strict=True):
        report = reports[place]
        faults = faults_of(prompts, checks)
        kept[use] = tuple(one for one in prompts if one.prompt_id not in faults)
        bad = [
            _quarantined(report, one, faults[one.prompt_id])
            for one in prompts
            if one.prompt_id in faults
        ]
        quarantined += bad
        used += [
            UsedRow(report.name, report.lines[one.prompt_id], one.prompt_id, use)
            for one in kept[use]
        ]
        asked[place] += len(kept[use])
        found = tuple(BadRow(row.row, row.reason) for row in bad)
        reports[place] = replace(report, bad=report.bad + found)
    for report in reports:
        report.refuse_if_bad(max_bad_share)
    counts = [
        SourceCount(one.name, one.rows, one.rows - len(one.bad) - asked[place])
        for place, one in enumerate(reports)
    ]
    _check_any_left(kept)
    return ScreenedData(
        kept["training"], kept["held_out"], tuple(counts), tuple(used), tuple(quarantined)
    )


def faults_of(prompts: Sequence[Prompt], checks: Sequence[Check]) -> dict[str, str]:
    """The prompts that some check has something against, by id, with the first reason."""
    faults: dict[str, str] = {}
    for check in checks:
        faults.update(check([one for one in prompts if one.prompt_id not in faults]))
    return faults


def _reports(task: Task, sides: Mapping[str, Sequence[Prompt]]) -> list[RowReport]:
    """The task's own reports, of one source or of two; a task without rows counts its problems."""
    own = getattr(task, "reports", None)
    if own is not None:
        first, *others = cast("Sequence[RowReport]", own)
        # Two splits of one data set have one name, and must not be counted as one.
        return [
            first,
            *(
                replace(one, name=f"{one.name} (held out)")
                for one in others
                if one.name == first.name
            ),
            *(one for one in others if one.name != first.name),
        ]
    names = [prompt.prompt_id for prompts in sides.values() for prompt in prompts]
    lines = {name: number for number, name in enumerate(names, start=1)}
    return [RowReport(task.name, "problem", len(names), lines)]


def _quarantined(report: RowReport, prompt: Prompt, reason: str) -> QuarantinedRow:
    shown = excerpt(repr((prompt.content, dict(prompt.columns))))
    line = report.lines[prompt.prompt_id]
    return QuarantinedRow(report.name, line, prompt.prompt_id, reason, shown)


def _check_any_left(kept: Mapping[str, Sequence[Prompt]]) -> None:
    for use, what in (("training", "train on"), ("held_out", "be measured on")):
        if not kept[use]:
            raise DataError(
                f"No prompt is left to {what}: all rows that were for it cannot be used; look at "
                "them with 'task.strict=true'."
            )
