"""Steps whose loss is not finite, through the real command line: skipped, counted, then stopped."""

import sys

import pytest

from bapo.cli import main
from bapo.reporting.accounts import account_for
from bapo.reporting.runs import read_run
from bapo.training import learner as module
from bapo.training.state_files import read_tree
from tests.resumable_runs import assert_same, json_lines, make_ingredients


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """A run whose loss is NaN from its second step on, which may happen three times in a row."""
    recipe = make_ingredients(tmp_path)
    policy_loss, updates = module.policy_loss, []

    def poisoned(inputs, settings, normaliser):
        output = policy_loss(inputs, settings, normaliser)
        if not updates:
            return output
        return type(output)(loss=output.loss * float("nan"), sums=output.sums)

    class Learner(module.Learner):
        def update(self, batch, **options):
            report = super().update(batch, **options)
            updates.append(report)
            return report

    monkeypatch.setattr(module, "policy_loss", poisoned)
    monkeypatch.setattr("bapo.training.preparation.Learner", Learner)
    run = tmp_path / "run"
    overrides = (
        *("training.max_nonfinite_steps=3", "training.checkpoint_every=1"),
        *("training.keep_checkpoints=9", "evaluation.every=0", "evaluation.training_prompts=0"),
    )
    monkeypatch.setattr(
        sys, "argv", ["bapo", "train", str(recipe), *overrides, "--output", str(run)]
    )
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 3
    return run, capsys.readouterr().err


def test_the_run_stops_with_code_3_and_every_skipped_step_is_on_record(stopped):
    run, err = stopped
    said = " ".join(err.split())
    metrics = json_lines(run / "metrics.jsonl")
    last = len(metrics)
    assert f"The run stopped at step {last}: loss or gradient was not finite in 3 steps" in said
    skipped = [line["updates_skipped"] for line in metrics if line["updates_skipped"]]
    assert len(skipped) == 3
    assert all(line["updates"] == 0 for line in metrics[1:])
    ledger = [line for line in json_lines(run / "ledger.jsonl") if line["kind"] == "group"]
    assert not any(line["outcome"] == "trained" for line in ledger if line["step"] > 1)
    assert any(line["outcome"] == "update_skipped" for line in ledger if line["step"] == last)
    assert account_for(read_run(run)).problems == []


def test_weights_and_optimizer_are_the_same_to_the_bit_in_every_checkpoint_since(stopped):
    run, _ = stopped
    base, *others = sorted((run / "checkpoints").iterdir())
    assert (base.name, len(others)) == ("step-000000", 3)
    for name in ("model", "optimizer"):
        first, *later = (read_tree(folder, name) for folder in others)
        for tree in later:
            assert_same(tree, first)
        with pytest.raises(AssertionError):
            assert_same(read_tree(base, name), first)  # the first step did change it
