"""docs/metrics.md defines exactly the keys that a run writes."""

import dataclasses
from pathlib import Path

import pytest

from bapo.adaptation import BufferEvent, BufferEventKind, GroupFate, GroupOutcome, SuspectPrompt
from bapo.evaluation import Evaluation, Example, PromptResult
from bapo.reward.latency import LatencyLog, SlowSample
from bapo.tasks.screening import QuarantinedRow, SourceCount, UsedRow
from bapo.training.account import verdict_lines
from bapo.training.metrics import METRIC_KEYS
from bapo.training.run import Totals
from tests.builders import make_group

GLOSSARY = Path(__file__).parents[2] / "docs" / "metrics.md"


def section(file_name: str) -> str:
    """The part of the glossary about one file of the run folder."""
    parts = GLOSSARY.read_text(encoding="utf-8").split("\n## ")
    return next(part for part in parts if part.startswith(file_name + "\n"))


def definitions(file_name: str) -> list[tuple[str, ...]]:
    """The rows of a section's tables, as cells."""
    rows = [line for line in section(file_name).splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]


def documented(file_name: str) -> list[str]:
    return [row[0].strip("` ") for row in definitions(file_name)]


def fields(*records: type) -> set[str]:
    return {field.name for record in records for field in dataclasses.fields(record)}


def test_every_metric_is_defined_once_and_nothing_else_is():
    assert sorted(documented("metrics.jsonl")) == sorted(METRIC_KEYS)


def test_the_keys_of_an_evaluation_are_defined():
    written = {"step", *fields(Totals), *Evaluation("held_out", 1, (), ()).as_line()}
    assert sorted(documented("evaluation.jsonl")) == sorted(written)
    prompts = next(row for row in definitions("evaluation.jsonl") if row[0] == "`prompts`")
    assert all(f"`{name}`" in prompts[1] for name in fields(PromptResult))


def test_the_keys_of_an_example_are_defined():
    assert sorted(documented("examples.jsonl")) == sorted({"step", "split", *fields(Example)})


def test_the_keys_of_the_ledger_are_defined():
    written = {"step", "kind", *fields(GroupFate, BufferEvent)}
    assert sorted(documented("ledger.jsonl")) == sorted(written)


@pytest.mark.parametrize("name", [*GroupOutcome, *BufferEventKind])
def test_every_outcome_and_event_of_the_ledger_is_explained(name):
    assert f"`{name.value}`" in section("ledger.jsonl")


def test_what_a_suspect_prompt_carries_is_named():
    row = next(row for row in definitions("summary.json") if row[0] == "`suspect_prompts`")
    assert all(f"`{name}`" in row[1] for name in fields(SuspectPrompt))


def test_the_keys_of_rows_and_of_the_quarantine_are_defined():
    rows = {"kind", *fields(SourceCount, UsedRow)}
    assert sorted(documented("rows.jsonl")) == sorted(rows)
    (verdict,) = verdict_lines(1, [make_group("p", "1t")], [])
    assert sorted(documented("quarantine.jsonl")) == sorted(
        {"kind", *fields(QuarantinedRow), *verdict}
    )


def test_the_keys_of_the_verifiers_report_are_defined():
    written = {"verifier", "since_step", "verifier_workers_replaced", "slowest"}
    assert sorted(documented("verifier.json")) == sorted(written | LatencyLog().metrics().keys())
    row = next(row for row in definitions("verifier.json") if row[0] == "`slowest`")
    assert all(f"`{name}`" in row[1] for name in fields(SlowSample))


@pytest.mark.parametrize(
    "file_name",
    [
        "metrics.jsonl",
        "evaluation.jsonl",
        "examples.jsonl",
        "ledger.jsonl",
        "rows.jsonl",
        "quarantine.jsonl",
        "verifier.json",
        "summary.json",
    ],
)
def test_every_definition_has_meaning_range_source_and_a_healthy_value(file_name):
    rows = definitions(file_name)
    assert rows
    for row in rows:
        assert len(row) == 5, row[0]
        assert all(row), row[0]
