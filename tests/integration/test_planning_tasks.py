"""A planning task from nothing: a tiny model is cold-started on it, trained and measured."""

import json
import sys

import pytest
import yaml

from bapo.cli import main

COLD = {"steps": 4, "seed": 0, "training": {"batch": 4, "warmup_steps": 0}}
SMALL = {"layers": 1, "hidden": 16, "heads": 2, "feed_forward": 16, "positions": 96}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grid-path", {"rows": 3, "columns": 3}),
        pytest.param("rush-hour", {"most_slides": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_planning_task_is_cold_started_and_trained(name, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = {"name": name, **options}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**COLD, "task": task, "model": SMALL}))
    recipe = {
        "algorithm": "grpo",  # which also learns from groups without a right answer
        "model": "base",
        "task": {**task, "train_size": 16},
        "steps": 2,
        "rollout": {"group_size": 2, "max_new_tokens": 8},
        "training": {"batch_groups": 4},
        "evaluation": {"every": 0, "prompts": 4, "samples": 2, "training_prompts": 0},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe))
    for command in (
        ["warmstart", "base.yaml", "--output", "base"],
        ["train", "run.yaml", "--output", "run"],
    ):
        monkeypatch.setattr(sys, "argv", ["bapo", *command])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["verdicts_ok"] for row in rows] == [8, 8]
    examples = [json.loads(line) for line in (tmp_path / "run" / "examples.jsonl").open()]
    assert all(one["correct"] or one["detail"] for one in examples)
