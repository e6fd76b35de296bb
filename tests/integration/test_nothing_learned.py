"""Runs that end without an update or with losses say so; one prompt's history; a demo resumed."""

import sys

import pytest

from bapo.training import train
from tests.resumable_runs import json_lines, make_ingredients, recipe_of

QUICK = (
    *("steps=2", "training.checkpoint_every=1", "evaluation.every=0"),
    *("evaluation.training_prompts=0", "evaluation.samples=1"),
)
BIG = """
def verify(completions, sign, **columns):
    return [float(one in text) * SCALE for one, text in zip(sign, completions)]
"""


@pytest.fixture
def bapo(bapo, monkeypatch):
    """The command line; what it says on stderr is on one line."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments):
        code, out, err = bapo(*arguments)
        return code, out, " ".join(err.split())

    return run


def test_a_run_without_an_update_is_no_success(bapo, tmp_path):
    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    (tmp_path / "verifier.py").write_text(
        "def verify(completions, **columns):\n    return [0.0 for _ in completions]\n"
    )
    code, _, err = bapo("train", recipe, *QUICK, "--output", run)
    assert code == 1
    assert "went to its end, but no optimizer update was made in 2 steps" in err
    assert f"with: bapo inspect {run}" in err
    assert (run / "summary.json").is_file()
    _, out, _ = bapo("inspect", run)
    assert "finished, without any update" in out


def test_ten_steps_in_a_row_without_an_update_are_said_once_while_the_run_goes_on(bapo, tmp_path):
    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    (tmp_path / "verifier.py").write_text(
        "def verify(completions, **columns):\n    return [0.0 for _ in completions]\n"
    )
    code, out, _ = bapo("train", recipe, *QUICK, "steps=12", "--output", run)
    assert code == 1
    assert " ".join(out.split()).count("no update in 10 steps in a row") == 1


def test_a_caller_from_python_is_told_what_the_command_line_says(tmp_path, caplog):
    make_ingredients(tmp_path)
    (tmp_path / "verifier.py").write_text(
        "def verify(completions, **columns):\n    return [0.0 for _ in completions]\n"
    )
    summary = train(recipe_of(tmp_path, *QUICK, "steps=10"), tmp_path / "run")
    (none,) = summary["shortfalls"]
    assert none.startswith("no optimizer update was made in 10 steps, so the policy is the base")
    assert [(one.name, one.levelname) for one in caplog.records] == [("bapo", "WARNING")] * 2
    assert caplog.messages[0].startswith("no update in 10 steps in a row: ")
    assert caplog.messages[1] == none


def test_many_lost_groups_are_said_at_the_end(bapo, tmp_path):
    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    (tmp_path / "verifier.py").write_text(
        "def verify(completions, sign, **columns):\n"
        "    assert sign[0] not in '024'\n"
        "    return [float(sign[0] in text) for text in completions]\n"
    )
    lossy = (*QUICK, "reward.max_invalid_share=1", "steps=6")
    code, out, err = bapo("train", recipe, *lossy, "--output", run)
    lost = sum(line["groups_unverified"] for line in json_lines(run / "metrics.jsonl"))
    assert lost > 2
    assert code == 0, err
    assert f"{lost} of 24 fresh groups were lost because a verdict was not ok" in " ".join(
        out.split()
    )


def test_a_prompts_history_is_what_the_ledger_says_and_no_id_is_cut(bapo, tmp_path):
    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    long = "row-" + "x" * 120
    data = tmp_path / "train.jsonl"
    data.write_text(data.read_text().replace('"row-3"', f'"{long}"'))
    code, _, err = bapo("train", recipe, *QUICK, "steps=6", "--output", run)
    assert code == 0, err
    lines = [x for x in json_lines(run / "ledger.jsonl") if x["prompt_id"] == long]
    _, out, _ = bapo("inspect", run, "--prompt", long)
    assert long in out
    assert "used for training." in out
    rows = [row for row in out.splitlines() if row.startswith("│")]
    assert len(rows) == len(lines) > 1
    for row, line in zip(rows, lines, strict=True):
        assert line.get("outcome", line.get("event")) in row
        assert row.split("│")[1].strip() == str(line["step"])
    _, out, _ = bapo("inspect", run)
    assert long in out
    code, _, err = bapo("inspect", run, "--prompt", "nobody")
    assert (code, "has no prompt 'nobody'" in err) == (2, True)


@pytest.mark.parametrize("scale", [1e30, 3e38], ids=["a gradient", "the loss"])
def test_scores_that_overflow_skip_the_update_and_stop_the_run(bapo, tmp_path, scale):
    from bapo.training.state_files import read_tree
    from tests.resumable_runs import assert_same

    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    command = ["train", recipe, *QUICK, "objective.scale_advantage=false", "--output", run]
    command += ["training.keep_checkpoints=9", "training.max_nonfinite_steps=2"]
    assert bapo(*command)[0] == 0
    (tmp_path / "verifier.py").write_text(BIG.replace("SCALE", repr(scale)))
    code, _, err = bapo(*command, "steps=9", "--resume")
    assert code == 3
    assert "loss or gradient was not finite in 2 steps in a row" in err
    metrics = json_lines(run / "metrics.jsonl")
    poisoned = [line for line in metrics[2:] if line["updates_skipped"]]
    assert len(poisoned) == 2
    assert all(line["updates"] == 0 for line in metrics[2:])
    folders = [run / "checkpoints" / f"step-{step:06d}" for step in (2, len(metrics) - 1)]
    for name in ("model", "optimizer"):
        first, last = (read_tree(folder, name) for folder in folders)
        if name == "optimizer":
            for tree in (first, last):
                for group in tree["param_groups"]:
                    del group["lr"]
        assert_same(last, first)


def test_an_interrupted_demo_says_how_to_go_on_and_ends_with_its_report(
    bapo, tmp_path, monkeypatch
):
    make_ingredients(tmp_path)
    monkeypatch.setattr(sys.modules["bapo.cli.demo"], "RECIPE", str(tmp_path / "recipe.yaml"))
    from bapo.training import run as module

    leave, asked = module.Run._leave_if_asked, []

    def ask(self):
        if self.loop.step == 1 and not asked:
            asked.append(True)
            self.interruption._requested = True
        leave(self)

    with monkeypatch.context() as patch:
        patch.setattr(module.Run, "_leave_if_asked", ask)
        code, _, err = bapo("demo", *QUICK, "--output", tmp_path / "my demo")
    assert code == 1
    assert f"go on with: bapo demo --output '{tmp_path / 'my demo'}' --resume" in err
    code, out, err = bapo("demo", "--output", tmp_path / "my demo", "--resume")
    assert code == 0, err
    assert "What it learned" in out
    assert (tmp_path / "my demo" / "report" / "report.html").is_file()
    _, out, _ = bapo("inspect", tmp_path / "my demo")
    assert "finished, resumed after step 1" in out
