import json
from pathlib import Path

import numpy as np
import pytest

from bapo.errors import RunFolderError
from bapo.reporting import find_runs
from bapo.reporting.runs import read_lines, read_run
from tests.run_folder_builder import build_comparison, build_run


def test_a_run_folder_is_found_as_itself(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=3)
    (found,) = find_runs([run])
    assert found.path == run
    assert (found.algorithm, found.seed, found.steps_done) == ("bapo", "0", 3)
    assert found.setting("training", "batch_groups") == 16
    assert found.setting("training", "nothing") is None
    assert found.summary is not None


def test_runs_are_found_below_a_folder_each_once_and_in_order(tmp_path: Path) -> None:
    folder = build_comparison(tmp_path / "compare", ("bapo", "grpo"), 2, steps=1, held_out=4)
    found = find_runs([folder, folder / "grpo" / "seed-1"])
    assert [run.path.relative_to(folder).as_posix() for run in found] == [
        "bapo/seed-0",
        "bapo/seed-1",
        "grpo/seed-0",
        "grpo/seed-1",
    ]


def test_a_run_inside_a_run_folder_is_not_another_run(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    build_run(run / "checkpoints" / "step-000001", steps=1)
    assert len(find_runs([tmp_path])) == 1


def test_a_missing_folder_and_one_without_runs_are_a_sentence_each(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"There is no folder '.*nowhere'"):
        find_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"There is no run folder in '.*empty'"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(RunFolderError, match="give at least one"):
        find_runs([])


def test_a_recipe_alone_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("algorithm: bapo\n")
    with pytest.raises(RunFolderError, match="no run folder"):
        find_runs([tmp_path])


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=3)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "entropy": 0.\xc3')
    assert read_run(run).steps_done == 3


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"Line 2 of '.*metrics.jsonl' is not JSON"):
        list(read_lines(path))
    path.write_text("[1]\n")
    with pytest.raises(RunFolderError, match=r"Line 1 .* must be a JSON object"):
        list(read_lines(path))


def test_recipe_and_summary_of_the_wrong_shape_are_errors(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    (run / "summary.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"summary.json' must hold one JSON object"):
        read_run(run)
    (run / "recipe.yaml").write_text("!!python/object/apply:os.system [echo]")
    with pytest.raises(RunFolderError, match=r"recipe.yaml' cannot be read"):
        read_run(run)


def test_null_and_missing_metrics_are_gaps_in_a_column(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    lines = [{"step": 1, "entropy": None}, {"step": 2}, {"step": 3, "entropy": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = read_run(run)
    np.testing.assert_array_equal(record.column("entropy"), [np.nan, np.nan, 0.5])
    assert record.total("entropy") == 0.5
    assert np.isnan(record.total("loss"))


def test_of_two_evaluations_of_one_step_the_later_counts(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    lines = [
        {"step": 5, "split": "held_out", "pass_at_1": 0.2},
        {"step": 0, "split": "held_out", "pass_at_1": 0.1},
        {"step": 5, "split": "held_out", "pass_at_1": 0.3},
        {"step": 0, "split": "training", "pass_at_1": 0.9},
    ]
    (run / "evaluation.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_run(run).evaluations_of("held_out")
    assert [evaluation["pass_at_1"] for evaluation in found] == [0.1, 0.3]
