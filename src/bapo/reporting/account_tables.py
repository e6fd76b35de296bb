"""The account of a run, and its verifier's latencies, as tables."""

import math
from collections.abc import Mapping

from bapo.reporting.accounts import Account
from bapo.reporting.runs import RunRecord, read_object
from bapo.reporting.tables import Table
from bapo.reporting.text import NOT_MEASURED, count, decimal, number, percent, visible

_MOST_PROBLEMS = 20
_EXCERPT = 60


def rows_table(account: Account) -> Table:
    """What became of every row of the data, each counted once; the last line is their sum."""
    title, head = "Rows of the data", ("what became of them", "rows", "share")
    if not account.has_rows:
        return Table(title, head, (), "The run has no rows.jsonl, so its rows are not known.")
    total = account.rows.total()
    rows = [
        (name, str(rows), percent(rows / total) if total else NOT_MEASURED)
        for name, rows in sorted(account.rows.items(), key=lambda item: (-item[1], item[0]))
        if rows
    ]
    rows.append(("all", str(total), f"of {account.rows_read} read"))
    note = (
        "Training rows are counted by the best that became of them; ledger.jsonl says when and as "
        "what, quarantine.jsonl says why a row was set aside."
    )
    return Table(title, head, tuple(rows), note)


def account_table(account: Account) -> Table:
    """Whether the sums agree, and where they do not."""
    groups = account.groups
    used = sum(groups[key] for key in groups if key[1] == "trained")
    sampled = sum(groups[key] for key in groups if key[0] != "reused")
    reused = groups.total() - sampled
    rows = [
        ("steps", str(account.steps)),
        ("groups sampled", str(sampled)),
        ("groups reused", str(reused)),
        ("of both, trained on when offered", str(used)),
        ("of both, passed over, with a reason", str(groups.total() - used)),
        ("verdicts that are not ok", str(account.verdicts)),
        ("disagreements", str(len(account.problems))),
    ]
    rows += [("", problem) for problem in account.problems[:_MOST_PROBLEMS]]
    note = (
        "The files do not agree: something was lost, counted twice or changed."
        if account.problems
        else "Rows, ledger, quarantine and metrics agree in every step."
    )
    if account.unfinished:
        note += f" {account.unfinished} lines of a step that was not finished are left out."
    return Table("Do the sums agree?", ("", "value"), tuple(rows), note)


def verifier_table(run: RunRecord) -> Table:
    """How long verdicts took, and the slowest ones."""
    title, head = "Verifier", ("", "value", "completion")
    path = run.path / "verifier.json"
    if not path.is_file():
        return Table(title, head, (), "The run has no verifier.json yet.")
    found = read_object(path)
    rows = [("verifier", visible(str(found.get("verifier"))), "")]
    rows += [
        (f"verdicts {status}", count(number(found, f"verdicts_{status}")), "")
        for status in ("ok", "invalid", "timeout", "error")
    ]
    rows += [
        (f"{share} % took at most", _milliseconds(found, f"verifier_milliseconds_p{share}"), "")
        for share in (50, 95, 99)
    ]
    rows.append(("processes replaced", count(number(found, "verifier_workers_replaced")), ""))
    listed = found.get("slowest")
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, Mapping):
            status, text = visible(str(one.get("status"))), visible(str(one.get("completion")))
            rows.append((f"slow, {status}", _milliseconds(one, "milliseconds"), text[:_EXCERPT]))
    since = number(found, "since_step")
    note = f"Since the run was resumed after step {since:.0f}." if since > 0 else ""
    return Table(title, head, tuple(rows), note)


def _milliseconds(record: Mapping[str, object], name: str) -> str:
    value = number(record, name)
    if math.isnan(value):
        return NOT_MEASURED
    return f"{value:.0f} ms" if value >= 100 else f"{decimal(value)} ms"
