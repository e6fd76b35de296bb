"""Runs that are ended at any moment and resumed become the run that was never ended."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bapo.config import resolve_recipe
from bapo.errors import RunFolderError, RunInterruptedError
from bapo.reporting.accounts import account_for
from bapo.reporting.runs import read_run
from bapo.training import planned_runs, train, train_unless_finished
from bapo.training.progress import Silence
from bapo.training.run_folder import RunFolder
from tests.killed_run import forked
from tests.resumable_runs import (
    PROMPTS,
    STEPS,
    DiedError,
    DyingProgress,
    Listener,
    assert_same_run,
    copy_of,
    json_lines,
    make_ingredients,
    recipe_content,
    recipe_of,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingredients")
    make_ingredients(folder)
    return folder


@pytest.fixture(scope="module")
def finished(ingredients, tmp_path_factory):
    """A function that gives the run of an algorithm that was never ended."""
    runs = {}

    def run_of(algorithm):
        if algorithm not in runs:
            runs[algorithm] = tmp_path_factory.mktemp("finished") / algorithm
            train(recipe_of(ingredients, f"algorithm={algorithm}"), runs[algorithm])
        return runs[algorithm]

    return run_of


@pytest.fixture(scope="module")
def unfinished(ingredients, tmp_path_factory):
    """A run that died after step 7, with checkpoints of steps 3 and 6."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    die_after(7, recipe_of(ingredients), run)
    assert checkpoints(run) == ["step-000003", "step-000006"]
    return run


def die_after(step, recipe, run, *, resume=False):
    with pytest.raises(DiedError):
        train(recipe, run, resume=resume, progress=DyingProgress(step))


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def content(run):
    """Every file of a run, but the lock's, which is no content."""
    return {
        path.relative_to(run): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def refusal(recipe, run):
    """What a refused resumption says; it must leave the run as it was."""
    before = content(run)
    with pytest.raises(RunFolderError) as caught:
        train(recipe, run, resume=True)
    assert content(run) == before
    return str(caught.value)


def test_the_reference_run_uses_every_source_of_a_batch(finished):
    lines = json_lines(finished("bapo") / "metrics.jsonl")
    for source in ("fresh", "retried", "reused"):
        assert sum(line[f"groups_{source}"] for line in lines) > 1
    assert lines[4]["epoch"] == 2.0  # the exact epoch boundary is among the steps to die after


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_that_died_after_any_step_ends_as_if_it_had_not(
    ingredients, finished, tmp_path, step
):
    recipe = recipe_of(ingredients)
    die_after(step, recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))


@pytest.mark.parametrize("algorithm", ["grpo", "dapo", "bapo_no_retry"])
def test_every_algorithm_survives_dying_three_times(ingredients, finished, tmp_path, algorithm):
    recipe = recipe_of(ingredients, f"algorithm={algorithm}")
    die_after(2, recipe, tmp_path / "run")
    die_after(5, recipe, tmp_path / "run", resume=True)
    die_after(5, recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished(algorithm))


@pytest.mark.parametrize(
    ("changed", "overrides"),
    [
        ("reuse_buffer_evicted", ["adaptation.max_buffer_megabytes=0.012"]),
        ("reuse_window", ["adaptation.adaptive_staleness=true", "adaptation.target_tv=0.01"]),
        ("importance_cap", ["adaptation.adaptive_staleness=true", "adaptation.target_tv=0.01"]),
        ("step_scale", ["objective.enforce_bound=true", "objective.trust_region=0.01"]),
    ],
)
def test_what_steers_the_buffers_survives_dying_twice(ingredients, tmp_path, changed, overrides):
    recipe = recipe_of(ingredients, *overrides)
    train(recipe, tmp_path / "whole")
    lines = json_lines(tmp_path / "whole" / "metrics.jsonl")
    assert len({line[changed] for line in lines}) > 1
    assert account_for(read_run(tmp_path / "whole")).problems == []
    die_after(4, recipe, tmp_path / "run")
    die_after(7, recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_steps_that_sample_fresh_and_hard_prompts_together_survive_dying(ingredients, tmp_path):
    """Steps 4 and 8 draw prompts that they ask again, and are done again from steps 3 and 6."""
    recipe = recipe_of(ingredients, "adaptation.behavior_sync_every=1")
    train(recipe, tmp_path / "whole")
    asked = {
        source: {
            (line["step"], line["prompt_id"])
            for line in json_lines(tmp_path / "whole" / "ledger.jsonl")
            if line["kind"] == "group" and line["source"] == source
        }
        for source in ("fresh", "retried")
    }
    assert {4, 8} <= {step for step, _ in asked["fresh"] & asked["retried"]}
    die_after(4, recipe, tmp_path / "run")
    die_after(8, recipe, tmp_path / "run", resume=True)
    assert checkpoints(tmp_path / "run") == ["step-000003", "step-000006"]
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_died_in_its_last_measurement_is_measured_and_finished(
    ingredients, finished, tmp_path
):
    class DyingAtTheEnd(Silence):
        def evaluated(self, step, evaluation):
            if step == STEPS:
                raise DiedError

    with pytest.raises(DiedError):
        train(recipe_of(ingredients), tmp_path / "run", progress=DyingAtTheEnd())
    train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))


def test_a_run_that_died_before_its_first_checkpoint_is_not_started_afresh(ingredients, tmp_path):
    class DyingAtTheStart(Silence):
        def evaluated(self, step, evaluation):
            raise DiedError

    with pytest.raises(DiedError):
        train(recipe_of(ingredients), tmp_path / "run", progress=DyingAtTheStart())
    said = refusal(recipe_of(ingredients), tmp_path / "run")
    assert "no checkpoint" in said
    assert "start again without --resume" in said


def test_without_periodic_checkpoints_none_is_written(ingredients, tmp_path):
    recipe = recipe_of(ingredients, "training.checkpoint_every=0", "steps=2")
    train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_folder_without_a_run_cannot_be_resumed(ingredients, tmp_path):
    with pytest.raises(RunFolderError, match="start it without --resume"):
        train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_written_over(ingredients, unfinished):
    before = content(unfinished)
    with pytest.raises(RunFolderError, match="--resume"):
        train(recipe_of(ingredients), unfinished)
    assert content(unfinished) == before


def test_a_finished_run_is_not_resumed(ingredients, finished):
    said = refusal(recipe_of(ingredients), finished("bapo"))
    assert f"finished: all {STEPS} steps are done" in said


def test_a_finished_run_can_be_trained_for_longer(ingredients, finished, tmp_path):
    train(recipe_of(ingredients, "steps=4"), tmp_path / "run")
    train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))
    assert resolve_recipe(recipe_content(ingredients)).steps == STEPS
    assert f"steps: {STEPS}\n" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_steps_cannot_be_raised_where_the_learning_rate_depends_on_them(ingredients, tmp_path):
    overrides = ["training.schedule=linear", "training.checkpoint_every=1"]
    die_after(2, recipe_of(ingredients, *overrides), tmp_path / "run")
    said = refusal(recipe_of(ingredients, *overrides, "steps=9"), tmp_path / "run")
    assert "steps = 8" in said
    assert "linear schedule" in said


def test_steps_cannot_be_lowered(ingredients, unfinished):
    assert "not lowered" in refusal(recipe_of(ingredients, "steps=7"), unfinished)


def test_another_recipe_is_refused_and_every_difference_named(ingredients, unfinished):
    overrides = ["training.learning_rate=0.02", "seed=1", "training.checkpoint_every=5"]
    said = refusal(recipe_of(ingredients, *overrides), unfinished)
    assert "seed: 0 -> 1" in said
    assert "training.learning_rate: 0.01 -> 0.02" in said
    assert "checkpoint_every" not in said


def test_settings_that_only_watch_may_change(ingredients, finished, unfinished, tmp_path):
    run = copy_of(unfinished, tmp_path / "run")
    listener = Listener()
    recipe = recipe_of(ingredients, "training.checkpoint_every=1", "reward.workers=2")
    train(recipe, run, resume=True, progress=listener)
    assert "workers: 2" in (run / "recipe.yaml").read_text()
    assert not any("another setting" in text for text in listener.heard)
    for name in ("ledger.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (finished("bapo") / name).read_bytes()


def test_a_setting_that_may_show_is_allowed_and_said(ingredients, unfinished, tmp_path):
    listener = Listener()
    recipe = recipe_of(ingredients, "reward.timeout_seconds=9")
    train(recipe, copy_of(unfinished, tmp_path / "run"), resume=True, progress=listener)
    assert any("reward.timeout_seconds: 5.0 -> 9.0" in text for text in listener.heard)


def test_another_version_of_a_library_is_said(ingredients, unfinished, tmp_path):
    run = copy_of(unfinished, tmp_path / "run")
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"torch": "1.0"}))
    listener = Listener()
    train(recipe_of(ingredients), run, resume=True, progress=listener)
    assert any("torch: 1.0 -> " in text for text in listener.heard)
    resumed = json.loads((run / "environment.json").read_text())["resumed"]
    assert [one["step"] for one in resumed] == [6]


def test_other_data_than_at_the_start_are_refused(ingredients, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = (ingredients / "train.jsonl").read_text()
    data.write_text(rows)
    recipe = recipe_of(ingredients, f"task.path={data}")
    die_after(4, recipe, tmp_path / "run")
    data.write_text(rows.replace('"7+7="', '"7+1="'))
    assert len(data.read_text().splitlines()) == PROMPTS
    assert "other prompts" in refusal(recipe, tmp_path / "run")


def test_another_model_in_the_same_place_is_refused(ingredients, unfinished, tmp_path):
    from tests.rollout_models import save_policy, tiny_model

    run = copy_of(unfinished, tmp_path / "run")
    base = ingredients / "base"
    kept = base.rename(ingredients / "kept")
    try:
        save_policy(base, tiny_model())
        assert "other weights" in refusal(recipe_of(ingredients), run)
    finally:
        for path in base.iterdir():
            path.unlink()
        base.rmdir()
        kept.rename(base)


def test_a_damaged_checkpoint_is_passed_over_said_and_set_aside(
    ingredients, finished, unfinished, tmp_path
):
    run = copy_of(unfinished, tmp_path / "run")
    (run / "checkpoints" / "step-000006" / "optimizer.json").unlink()
    listener = Listener()
    die = DyingProgress(4)
    listener.trained = die.trained
    with pytest.raises(DiedError):
        train(recipe_of(ingredients), run, resume=True, progress=listener)
    assert "the checkpoint of step 6 is not used: optimizer.json is missing" in listener.heard
    assert "resumed after step 3" in listener.heard
    assert checkpoints(run) == ["rejected-step-000006", "step-000003"]
    train(recipe_of(ingredients), run, resume=True)
    assert_same_run(run, finished("bapo"))


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_afresh(
    ingredients, unfinished, tmp_path
):
    run = copy_of(unfinished, tmp_path / "run")
    for step in (3, 6):
        (run / "checkpoints" / f"step-{step:06d}" / "model.safetensors").write_bytes(b"")
    assert "no checkpoint" in refusal(recipe_of(ingredients), run)


def test_a_checkpoint_is_passed_over_whose_lines_of_metrics_are_gone(
    ingredients, finished, unfinished, tmp_path
):
    run = copy_of(unfinished, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:5]))
    listener = Listener()
    train(recipe_of(ingredients), run, resume=True, progress=listener)
    assert any("step 6 is not used: metrics.jsonl lost lines" in text for text in listener.heard)
    assert_same_run(run, finished("bapo"))


def test_the_cost_of_a_checkpoint_is_in_the_line_of_the_next_step(
    ingredients, unfinished, tmp_path
):
    run = copy_of(unfinished, tmp_path / "run")
    train(recipe_of(ingredients), run, resume=True)
    lines = json_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["seconds_checkpoint"] > 0] == [1, 4, 7]
    for line in lines:
        phases = [value for key, value in line.items() if key.startswith("seconds_")]
        assert line["seconds"] == pytest.approx(sum(phases))


def test_a_folder_in_use_is_neither_resumed_nor_started(ingredients, unfinished, tmp_path):
    folder = RunFolder(copy_of(unfinished, tmp_path / "run"))
    try:
        said = refusal(recipe_of(ingredients), folder.path)
        assert f"in use by another run (process {os.getpid()})" in said
    finally:
        folder.close()
    other = tmp_path / "new"
    other.mkdir()
    folder = RunFolder(other)
    try:
        with pytest.raises(RunFolderError, match="in use by another run"):
            train(recipe_of(ingredients), other)
    finally:
        folder.close()


def test_a_comparison_goes_on_with_a_run_that_was_ended(
    ingredients, finished, unfinished, tmp_path
):
    run = copy_of(unfinished, tmp_path / "run")
    assert train_unless_finished(recipe_of(ingredients), run, Silence()) is not None
    assert_same_run(run, finished("bapo"))
    assert train_unless_finished(recipe_of(ingredients), run, Silence()) is None


def test_a_comparison_in_the_folder_of_another_one_is_refused_before_it_trains(
    ingredients, finished, tmp_path
):
    copy_of(finished("bapo"), tmp_path / "bapo" / "seed-7")
    with pytest.raises(RunFolderError, match="seed-7' holds a finished run of another recipe"):
        planned_runs(ingredients / "recipe.yaml", ["steps=3"], ["grpo", "bapo"], [7], tmp_path)


def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_the_checkpoint_before(
    ingredients, finished, tmp_path, monkeypatch
):
    def full(folder, step, seconds):
        if step == 6:
            raise OSError(28, "No space left on device")
        write(folder, step, seconds)

    from bapo.training import checkpoints as module

    write = module.write_manifest
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", full)
        with pytest.raises(RunFolderError) as caught:
            train(recipe_of(ingredients), tmp_path / "run")
    assert "step 6 cannot be written" in str(caught.value)
    assert "No space left on device; that of step 3 is as it was" in str(caught.value)
    assert caught.value.exit_code == 1
    assert checkpoints(tmp_path / "run") == ["step-000000", "step-000003"]
    train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))


def command(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    """Exit code and output of a process, once it has ended."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, " ".join(output.split())


def test_a_process_killed_twice_ends_as_if_it_had_not(ingredients, finished, tmp_path):
    run = str(tmp_path / "run")
    arguments = ["train", str(ingredients / "recipe.yaml"), "--output", run]
    # Two updates a step, but one in step 1, whose batch has one group: so in the first of step 6.
    code, _ = ended(command("tests.killed_run", "before-optimizer", "10", *arguments))
    assert code == -signal.SIGKILL
    assert len(json_lines(tmp_path / "run" / "metrics.jsonl")) == 5
    code, _ = ended(command("tests.killed_run", "before-rename", "1", *arguments, "--resume"))
    assert code == -signal.SIGKILL
    assert checkpoints(tmp_path / "run") == [".writing-step-000006", "step-000000", "step-000003"]
    code, output = ended(command("bapo", *arguments, "--resume"))
    assert code == 0, output
    assert_same_run(tmp_path / "run", finished("bapo"))
    assert checkpoints(tmp_path / "run") == ["step-000006", "step-000008"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_asked_to_leave_saves_says_how_to_go_on_and_can(ingredients, tmp_path, number):
    run, log = tmp_path / "a run", tmp_path / "log"
    recipe = str(ingredients / "recipe.yaml")
    process = forked("none", 0, log, "train", recipe, "steps=100000", "--output", str(run))
    wait_for_lines(run / "metrics.jsonl", 2, process)
    os.kill(process.pid, number)
    process.join(60)
    said = " ".join(log.read_text().split())
    assert process.exitcode == 1, said
    assert "finishing this step and saving" in said
    assert f"bapo train '{run}/recipe.yaml' --output '{run}' --resume" in said
    done = len(json_lines(run / "metrics.jsonl"))
    assert checkpoints(run)[-1] == f"step-{done:06d}"
    die_after(done + 1, recipe_of(ingredients, "steps=100000"), run, resume=True)
    assert [line["step"] for line in json_lines(run / "metrics.jsonl")] == [*range(1, done + 2)]


def test_a_run_that_left_on_request_ends_as_if_it_had_not(ingredients, finished, tmp_path):
    class Asking(Silence):
        def trained(self, step, steps, metrics):
            if step == 4:  # where an evaluation is due, but no checkpoint
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunInterruptedError, match="after step 4 of 8"):
        train(recipe_of(ingredients), tmp_path / "run", progress=Asking())
    assert json_lines(tmp_path / "run" / "evaluation.jsonl")[-1]["step"] == 2
    assert checkpoints(tmp_path / "run") == ["step-000003", "step-000004"]
    train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))


def test_a_run_asked_to_leave_while_the_base_is_measured_goes_on_there(
    ingredients, finished, tmp_path
):
    class Asking(Silence):
        def evaluated(self, step, evaluation):
            if evaluation.split == "held_out":
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterruptedError, match="after step 0 of 8"):
        train(recipe_of(ingredients), tmp_path / "run", progress=Asking())
    train(recipe_of(ingredients), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", finished("bapo"))


def test_a_second_signal_leaves_at_once(ingredients, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    recipe = str(ingredients / "recipe.yaml")
    process = forked("stuck", 2, log, "train", recipe, "--output", str(run))
    wait_for_lines(run / "metrics.jsonl", 1, process)
    time.sleep(0.5)  # between its first step and its second one signal would be enough
    os.kill(process.pid, signal.SIGTERM)
    process.join(0.5)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM


def wait_for_lines(path, count, process):
    deadline = time.monotonic() + 120
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        assert process.is_alive(), f"the process ended with {process.exitcode}"
        assert time.monotonic() < deadline, f"{path} did not grow to {count} lines"
        time.sleep(0.005)
