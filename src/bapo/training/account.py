"""The lines by which a run folder accounts for every row and for every verdict that is not `ok`.

rows.jsonl says what every row of the data is used for, quarantine.jsonl which rows and verdicts
were set aside and why. With ledger.jsonl and metrics.jsonl they add up: `bapo inspect` proves it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bapo.tasks import ScreenedData
from bapo.types import Group, Source, VerdictStatus

VERDICTS_KEPT = 20
"""Verdicts of one step that are kept with their text; all of them are counted."""
_LONGEST_TEXT = 2000


def row_lines(screened: ScreenedData) -> Iterator[Mapping[str, Any]]:
    """The lines of rows.jsonl: the sources with all their rows, then every row that is used."""
    for source in screened.sources:
        yield {"kind": "source", **asdict(source)}
    for row in screened.used:
        yield {"kind": "row", **asdict(row)}


def quarantined_row_lines(screened: ScreenedData) -> Iterator[Mapping[str, Any]]:
    """The lines of quarantine.jsonl about rows."""
    for row in screened.quarantined:
        yield {"kind": "row", **asdict(row)}


def verdict_lines(
    step: int, fresh: Sequence[Group], retried: Sequence[Group]
) -> tuple[Mapping[str, Any], ...]:
    """The lines of quarantine.jsonl about the verdicts of one step that are not `ok`.

    Args:
        step: The training step.
        fresh: Its fresh groups.
        retried: Its retried groups.

    Returns:
        The first `VERDICTS_KEPT` of them, each with its number, from 1, and how many there are.
    """
    found: list[dict[str, Any]] = []
    for source, groups in ((Source.FRESH, fresh), (Source.RETRIED, retried)):
        for group in groups:
            for place, verdict in enumerate(group.verdicts):
                if verdict.status is not VerdictStatus.OK:
                    text = group.rollout.completions[place].text
                    found.append(
                        {
                            "prompt_id": group.prompt_id,
                            "source": source.value,
                            "completion_index": place,
                            "status": verdict.status.value,
                            "reason": verdict.detail,
                            "milliseconds": verdict.milliseconds,
                            "content": text[:_LONGEST_TEXT],
                        }
                    )
    return tuple(
        {"kind": "verdict", "step": step, **line, "number": number, "of": len(found)}
        for number, line in enumerate(found[:VERDICTS_KEPT], start=1)
    )
