"""The builder of run folders writes what training writes, so reports are tested on real shapes."""

import json
from pathlib import Path

from bapo.evaluation.measure import Evaluation, Example, PromptResult
from bapo.training.metrics import METRIC_KEYS
from tests.run_folder_builder import build_run


def first_line(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8").splitlines()[0])


def test_the_builder_writes_every_metric_of_a_training_step(tmp_path: Path) -> None:
    line = first_line(build_run(tmp_path / "run", steps=1) / "metrics.jsonl")
    assert set(line) == set(METRIC_KEYS)


def test_the_builder_writes_evaluations_and_examples_as_evaluation_does(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", steps=1)
    result = PromptResult("p", "CD-3", 1, 4)
    line = Evaluation("held_out", 4, (result,), ()).as_line()
    added = {"step", "rollouts", "seconds", "tokens"}
    evaluation = first_line(run / "evaluation.jsonl")
    assert set(evaluation) == set(line) | added
    assert set(evaluation["prompts"][0]) == set(line["prompts"][0])  # type: ignore[index]
    assert set(first_line(run / "examples.jsonl")) == {"step", "split", *Example.__slots__}
