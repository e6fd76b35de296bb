"""A few completions as they were sampled, chosen so that right and wrong both show."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bapo.reporting.runs import Record, RunRecord
from bapo.reporting.text import html_text, number

_LONGEST = 900
"""Characters of a prompt or completion that are shown."""


@dataclass(frozen=True, slots=True)
class Example:
    """A completion of the trained policy and, where known, one of the base for the same problem.

    Attributes:
        after: The completion of the newest evaluation that kept any.
        before: One of step 0; None if there is none, or if the newest is of step 0 itself.
    """

    after: Record
    before: Record | None


def choose_examples(run: RunRecord, each: int = 3) -> list[Example]:
    """Up to `each` right and `each` wrong completions of different problems, right ones first.

    Held-out problems are preferred; problems that the base got wrong come before those it got
    right.
    """
    known = [record for record in run.examples if record.get("status") == "ok"]
    for split in ("held_out", "training"):
        rows = [record for record in known if record.get("split") == split]
        steps = [step for row in rows if not math.isnan(step := number(row, "step"))]
        if steps:
            return _choose(rows, max(steps), each)
    return []


def _choose(rows: Sequence[Record], last: float, each: int) -> list[Example]:
    bases: dict[str, Record] = {}
    if last > 0:
        for row in rows:
            if number(row, "step") == 0:
                bases.setdefault(str(row.get("prompt_id")), row)
    examples = [
        Example(row, bases.get(str(row.get("prompt_id"))))
        for row in rows
        if number(row, "step") == last
    ]
    examples.sort(key=lambda example: bool(example.before and example.before.get("correct")))
    chosen: list[Example] = []
    used: set[str] = set()
    for is_correct in (True, False):
        taken = 0
        for example in examples:
            name = str(example.after.get("prompt_id"))
            if (
                bool(example.after.get("correct")) is is_correct
                and name not in used
                and taken < each
            ):
                used.add(name)
                chosen.append(example)
                taken += 1
    return chosen


def examples_html(examples: Sequence[Example]) -> str:
    """The examples as cards; every character that a model wrote is escaped."""
    return '<div class="cards">' + "".join(_card(example) for example in examples) + "</div>"


def _card(example: Example) -> str:
    level = html_text(example.after.get("level") or "")
    head = f'<span class="level">{level}</span>' if level else ""
    prompt = f'<pre class="prompt">{_shown(example.after.get("prompt"))}</pre>'
    parts = [
        _answer(row, "the base" if number(row, "step") == 0 else f"step {number(row, 'step'):.0f}")
        for row in (example.before, example.after)
        if row is not None
    ]
    return (
        f'<article class="card"><header>problem {head}</header>{prompt}{"".join(parts)}</article>'
    )


def _answer(row: Record, who: str) -> str:
    name, mark = ("right", "✓ right") if row.get("correct") else ("wrong", "✗ wrong")
    return (
        f'<div class="answer"><div class="who">{who} <span class="badge {name}">{mark}</span></div>'
        f"<pre>{_shown(row.get('completion'))}</pre>{_detail(row)}</div>"
    )


def _detail(row: Record) -> str:
    """What the verifier said of the answer, where it said anything."""
    detail = row.get("detail")
    return f'<div class="note">{html_text(detail)}</div>' if detail else ""


def _shown(value: Any) -> str:
    """A prompt or completion as HTML, its middle left out if it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.strip("\n")
    if not text:
        return '<span class="note">(empty)</span>'
    if len(text) <= _LONGEST:
        return html_text(text, keep_lines=True)
    half = _LONGEST // 2
    left_out = f'<span class="note"> … {len(text) - 2 * half} characters left out … </span>'
    start, end = text[:half], text[-half:]
    return html_text(start, keep_lines=True) + left_out + html_text(end, keep_lines=True)
