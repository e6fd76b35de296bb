import json
from pathlib import Path
from typing import Any

import pytest

from bapo.errors import RunFolderError
from bapo.reporting import summarise_run
from bapo.reporting.inspection import read_ledger
from tests.run_folder_builder import build_run


def group(prompt: str, outcome: str, rate: float | None, **more: Any) -> dict[str, Any]:
    record = {"step": 1, "kind": "group", "prompt_id": prompt, "source": "fresh"}
    return {**record, "outcome": outcome, "correctness_rate": rate, **more}


def event(prompt: str, name: str, step: int = 1) -> dict[str, Any]:
    return {"step": step, "kind": "buffer", "prompt_id": prompt, "event": name}


def write_ledger(run: Path, *records: dict[str, Any]) -> None:
    (run / "ledger.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_groups_are_counted_by_source_and_outcome(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    write_ledger(
        run,
        group("a", "trained", 0.5),
        group("b", "all_wrong", 0.0),
        group("c", "all_wrong", 0.0),
        group("d", "unverified", None),
        group("a", "trained", 0.5, source="reused"),
    )
    table = summarise_run(run).outcomes
    assert table.rows == (
        ("fresh", "all_wrong", "2", "50.0\u00a0%"),
        ("fresh", "trained", "1", "25.0\u00a0%"),
        ("fresh", "unverified", "1", "25.0\u00a0%"),
        ("reused", "trained", "1", "100.0\u00a0%"),
    )


def test_the_hardest_prompt_is_the_lowest_rate_then_the_one_asked_most(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    write_ledger(
        run,
        group("once", "all_wrong", 0.0),
        group("often", "all_wrong", 0.0),
        event("often", "hard_entered"),
        group("often", "all_wrong", 0.0, source="retried", step=5),
        event("often", "retry_failed", 5),
        group("better", "trained", 0.25),
        group("better", "trained", 0.25, source="reused"),
        group("unknown", "unverified", None),
    )
    table = summarise_run(run).hardest
    zero = "0.0\u00a0%"
    assert table.rows == (
        ("often", "2", "1", zero, zero, "5", "yes"),
        ("once", "1", "0", zero, zero, "1", "no"),
        ("better", "1", "0", "25.0\u00a0%", "25.0\u00a0%", "1", "no"),
    )


@pytest.mark.parametrize("last", ["hard_left", "hard_evicted", "hard_retired"])
def test_a_prompt_is_hard_until_it_leaves_the_buffer(last: str) -> None:
    ledger = read_ledger([event("p", "hard_entered"), event("p", "hard_moved")])
    assert ledger.prompts["p"].is_hard
    ledger = read_ledger([event("p", "hard_entered"), event("p", last)])
    assert not ledger.prompts["p"].is_hard


def test_suspects_come_from_ledger_and_summary_without_those_solved_after_all(
    tmp_path: Path,
) -> None:
    run = build_run(tmp_path / "run", steps=1)
    write_ledger(
        run,
        group("bad", "all_wrong", 0.0),
        event("bad", "hard_retired", 9),
        event("solved", "hard_retired", 9),
        event("solved", "hard_reinstated", 12),
    )
    summary = json.loads((run / "summary.json").read_text())
    summary["suspect_prompts"] = [{"prompt_id": "bad"}, {"prompt_id": "old"}]
    (run / "summary.json").write_text(json.dumps(summary))
    assert summarise_run(run).suspects.rows == (("bad", "9", "1"), ("old", "–", "0"))


def test_the_buffers_are_those_of_the_last_step(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    lines = [
        {"step": 1, "hard_buffer_size": 1, "reuse_buffer_evicted": 2},
        {
            "step": 2,
            "hard_buffer_size": 12,
            "reuse_buffer_size": 30,
            "reuse_low": 0.125,
            "reuse_high": 0.3,
            "policy_strength": 0.2,
            "prompts_retired": 4,
            "reuse_buffer_evicted": 3,
            "buffer_megabytes": 1.25,
        },
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = summarise_run(run).buffers
    assert table.title == "Buffers after step 2"
    assert table.rows == (
        ("hard buffer, prompts", "12 of 16"),
        ("prompts retired", "4"),
        ("reuse buffer, groups", "30 of the last 3 steps"),
        ("reuse band [c2, c3]", "0.125 to 0.300"),
        ("policy strength r", "0.200"),
        ("size of both, megabytes", "1.25 of 2048.0"),
        ("groups dropped for want of room, all steps", "5"),
    )


def test_an_algorithm_without_buffers_says_so(tmp_path: Path) -> None:
    table = summarise_run(build_run(tmp_path / "run", algorithm="grpo", steps=1)).buffers
    assert (table.rows, table.note) == ((), "grpo keeps no buffers.")


def test_a_run_that_has_not_taken_a_step_has_every_table(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1, finished=False)
    for name in ("metrics.jsonl", "ledger.jsonl", "evaluation.jsonl", "examples.jsonl"):
        (run / name).unlink()
    summary = summarise_run(run)
    assert ("status", "not ended") in summary.run.rows
    assert ("held-out pass@1, base", "–") in summary.run.rows
    assert all(table.rows or table.note for table in summary.tables)


def test_every_row_has_a_cell_for_every_column_and_no_controls(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=10)
    with (run / "ledger.jsonl").open("a") as file:
        file.write(json.dumps(group("\x1b[2Jevil\n", "all_wrong", -1.0)) + "\n")
    summary = summarise_run(run)
    cells = [cell for table in summary.tables for row in table.rows for cell in row]
    assert all(len(row) == len(table.columns) for table in summary.tables for row in table.rows)
    assert not any("\x1b" in cell or "\n" in cell for cell in cells)
    assert "\\x1b[2Jevil\\n" in cells


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        summarise_run(tmp_path)
