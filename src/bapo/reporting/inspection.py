"""What `bapo inspect RUN` shows, as plain tables."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bapo.reporting.account_tables import account_table, rows_table, verifier_table
from bapo.reporting.accounts import account_for
from bapo.reporting.measures import before_and_after, unsolved_solved
from bapo.reporting.notes import status_of
from bapo.reporting.runs import Record, RunRecord, read_lines, read_run
from bapo.reporting.tables import Table
from bapo.reporting.text import NOT_MEASURED, count, decimal, minutes, number, percent, visible

HARDEST = 10
"""Prompts listed as hardest."""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The tables of one run, in the order in which they are shown.

    Attributes:
        run: The run itself: progress and accuracy.
        rows: What became of every row of the data.
        account: Whether all files agree.
        buffers: Buffers and reuse band after the last step.
        outcomes: What became of the groups, by source and outcome.
        hardest: The prompts with the lowest correctness rate over all their groups.
        suspects: Prompts retired without ever being solved.
        verifier: How long verdicts took.
        problems: Where the files do not agree, a sentence each.
    """

    run: Table
    rows: Table
    account: Table
    buffers: Table
    outcomes: Table
    hardest: Table
    suspects: Table
    verifier: Table
    problems: tuple[str, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All of them; those without rows are still there, their note says why."""
        return (
            self.run,
            self.rows,
            self.buffers,
            self.outcomes,
            self.hardest,
            self.suspects,
            self.verifier,
            self.account,
        )


def summarise_run(path: Path) -> RunSummary:
    """Reads a run folder and its ledger.

    Args:
        path: One run folder, of a run that may still be going on.

    Raises:
        RunFolderError: `path` is no run folder, or a file in it cannot be read.
    """
    run = read_run(path)
    ledger = read_ledger(read_lines(path / "ledger.jsonl"))
    account = account_for(run)
    return RunSummary(
        run=_run_table(run),
        rows=rows_table(account),
        account=account_table(account),
        buffers=_buffer_table(run),
        outcomes=_outcome_table(ledger),
        hardest=_hardest_table(ledger),
        suspects=_suspect_table(run, ledger),
        verifier=verifier_table(run),
        problems=tuple(account.problems),
    )


@dataclass(slots=True)
class PromptHistory:
    """What the ledger says of one prompt.

    Attributes:
        groups: Verified groups sampled for it, reused ones not counted again.
        retries: Those of them that were retries.
        rate_sum: Sum of their correctness rates.
        best: Highest of them.
        last_step: Step of the last one.
        is_hard: Whether it is in the hard buffer now.
    """

    groups: int = 0
    retries: int = 0
    rate_sum: float = 0.0
    best: float = 0.0
    last_step: float = 0.0
    is_hard: bool = False

    @property
    def rate(self) -> float:
        """Mean correctness rate over its groups; NaN without any."""
        return self.rate_sum / self.groups if self.groups else math.nan


@dataclass(slots=True)
class Ledger:
    """A ledger added up.

    Attributes:
        fates: Number of groups by (source, outcome).
        prompts: What became of each prompt.
        retired: Step at which each suspect prompt was retired.
    """

    fates: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompts: dict[str, PromptHistory] = field(default_factory=dict)
    retired: dict[str, float] = field(default_factory=dict)


_ENTERS = frozenset({"hard_entered", "hard_moved", "retry_failed"})
_LEAVES = frozenset({"hard_left", "hard_evicted", "hard_retired"})


def read_ledger(records: Iterable[Record]) -> Ledger:
    """Adds up a ledger in one pass; memory grows with the prompts, not with the records."""
    ledger = Ledger()
    for record in records:
        name = visible(str(record.get("prompt_id")))
        history = ledger.prompts.setdefault(name, PromptHistory())
        if record.get("kind") == "group":
            _add_group(ledger, history, record)
        elif record.get("kind") == "buffer":
            event = record.get("event")
            if event in _ENTERS:
                history.is_hard = True
            elif event in _LEAVES:
                history.is_hard = False
            if event == "hard_retired":
                ledger.retired[name] = number(record, "step")
            elif event == "hard_reinstated":
                ledger.retired.pop(name, None)
    return ledger


def _add_group(ledger: Ledger, history: PromptHistory, record: Record) -> None:
    source, outcome = (visible(str(record.get(key))) for key in ("source", "outcome"))
    ledger.fates[source, outcome] += 1
    rate = number(record, "correctness_rate")
    if source == "reused" or math.isnan(rate):
        return
    history.groups += 1
    history.retries += source == "retried"
    history.rate_sum += rate
    history.best = max(history.best, rate)
    history.last_step = number(record, "step")


def _run_table(run: RunRecord) -> Table:
    before, after = before_and_after(run)
    solved = unsolved_solved(run)
    rows = [
        ("algorithm", run.algorithm),
        ("model", _plain(run.setting("model", "path"))),
        ("task", _plain(run.setting("task", "name"))),
        ("seed", run.seed),
        ("status", visible(status_of(run))),
        ("steps", f"{run.steps_done} of {_plain(run.recipe.get('steps'))}"),
        ("rollouts", count(run.total("rollouts"))),
        ("training time", minutes(run.total("seconds"))),
        ("held-out pass@1, base", percent(before.pass_at_1) if before else NOT_MEASURED),
        (
            f"held-out pass@1, step {after.step}" if after else "held-out pass@1, trained",
            percent(after.pass_at_1) if after else NOT_MEASURED,
        ),
    ]
    if solved is not None:
        rows.append(("unsolved problems solved", f"{solved.solved} of {solved.unsolved}"))
        if solved.asked_again:
            again = f"{solved.by_base} of {solved.asked_again}"
            rows.append(("the same by the base asked again", again))
    return Table(f"Run {visible(str(run.path))}", ("", "value"), tuple(rows))


def _buffer_table(run: RunRecord) -> Table:
    if not run.metrics:
        return Table("Buffers", ("", "value"), (), "No step has been trained yet.")
    last = run.metrics[-1]
    capacity = run.setting("adaptation", "hard_capacity") or run.setting("training", "batch_groups")
    low, high = number(last, "reuse_low"), number(last, "reuse_high")
    window = _plain(run.setting("adaptation", "reuse_window"))
    rows: list[tuple[str, str]] = []
    if run.setting("adaptation", "retry") is not False:
        held = count(number(last, "hard_buffer_size"))
        rows.append(("hard buffer, prompts", f"{held} of {_plain(capacity)}"))
        rows.append(("prompts retired", count(number(last, "prompts_retired"))))
    if run.setting("adaptation", "reuse") is not False:
        held = count(number(last, "reuse_buffer_size"))
        rows.append(("reuse buffer, groups", f"{held} of the last {window} steps"))
        rows.append(("reuse band [c2, c3]", f"{decimal(low)} to {decimal(high)}"))
        rows.append(("policy strength r", decimal(number(last, "policy_strength"))))
    if rows:
        size = decimal(number(last, "buffer_megabytes"))
        most = _plain(run.setting("adaptation", "max_buffer_megabytes"))
        rows.append(("size of both, megabytes", f"{size} of {most}"))
        rows.append(
            ("groups dropped for want of room, all steps", count(run.total("reuse_buffer_evicted")))
        )
    title = f"Buffers after step {number(last, 'step'):.0f}"
    note = "" if rows else f"{run.algorithm} keeps no buffers."
    return Table(title, ("", "value"), tuple(rows), note)


def _outcome_table(ledger: Ledger) -> Table:
    totals: Counter[str] = Counter()
    for (source, _), groups in ledger.fates.items():
        totals[source] += groups
    order = {"fresh": 0, "retried": 1, "reused": 2}
    rows = [
        (source, outcome, str(groups), percent(groups / totals[source]))
        for (source, outcome), groups in sorted(
            ledger.fates.items(), key=lambda item: (order.get(item[0][0], 3), item[0][0], -item[1])
        )
    ]
    note = "" if rows else "The ledger is empty or missing."
    columns = ("source", "outcome", "groups", "of its source")
    return Table("What became of the groups", columns, tuple(rows), note)


def _hardest_table(ledger: Ledger) -> Table:
    asked = [(name, history) for name, history in ledger.prompts.items() if history.groups]
    # Of prompts that were never solved, the one that was asked more often is the surer case.
    asked.sort(key=lambda item: (item[1].rate, -item[1].groups, item[0]))
    rows = [
        (
            name,
            str(history.groups),
            str(history.retries),
            percent(history.rate),
            percent(history.best),
            f"{history.last_step:.0f}",
            "yes" if history.is_hard else "no",
        )
        for name, history in asked[:HARDEST]
    ]
    columns = ("prompt", "groups", "retries", "mean correct", "best", "last step", "in hard buffer")
    note = (
        f"{len(asked)} prompts have a verified group; the hardest {len(rows)} are shown."
        if rows
        else "No prompt has a verified group yet."
    )
    return Table("Hardest prompts", columns, tuple(rows), note)


def _suspect_table(run: RunRecord, ledger: Ledger) -> Table:
    names = dict.fromkeys(ledger.retired)
    listed = (run.summary or {}).get("suspect_prompts")
    for entry in listed if isinstance(listed, list) else []:
        name = entry.get("prompt_id") if isinstance(entry, Mapping) else entry
        names.setdefault(visible(str(name)))
    rows: list[tuple[str, str, str]] = []
    for name in names:
        history = ledger.prompts.get(name, PromptHistory())
        step = ledger.retired.get(name, math.nan)
        rows.append((name, count(step), str(history.groups)))
    note = (
        "Never solved in any try: check their gold answers."
        if rows
        else "No prompt has been retired as never solved."
    )
    return Table(
        "Suspect gold: prompts never solved",
        ("prompt", "retired at step", "groups"),
        tuple(rows),
        note,
    )


def _plain(value: Any) -> str:
    return NOT_MEASURED if value is None else visible(str(value))
