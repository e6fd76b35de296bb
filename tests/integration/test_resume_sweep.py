"""Real processes, killed at every named point and at random moments, then resumed."""

import os
import random
import signal
import time

import pytest

from bapo.training import train
from tests.killed_run import POINTS, forked
from tests.resumable_runs import assert_same_run, make_ingredients, recipe_of

pytestmark = pytest.mark.slow

ALGORITHMS = ("bapo", "dapo", "grpo")
LATEST = {
    "before-rollout": 8,
    "while-sampling": 60,
    "while-verifying": 12,
    "after-verdicts": 8,
    "before-optimizer": 12,
    "after-optimizer": 12,
    "amid-line": 8,
    "before-checkpoint": 4,
    "amid-buffers": 4,
    "before-manifest": 4,
    "before-rename": 4,
    "after-rename": 4,
    "while-removing": 2,
    "while-measuring": 8,
    "before-summary": 1,
}
"""How often each run comes to a point at least; the first checkpoint, of step 0, is one of 4."""


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingredients")
    make_ingredients(folder)
    return folder


@pytest.fixture(scope="module")
def finished(ingredients, tmp_path_factory):
    runs = {}
    for algorithm in ALGORITHMS:
        runs[algorithm] = tmp_path_factory.mktemp("finished") / algorithm
        train(recipe_of(ingredients, f"algorithm={algorithm}"), runs[algorithm])
    return runs


def test_every_point_but_the_one_that_hangs_is_swept():
    assert set(LATEST) == set(POINTS) - {"stuck"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("point", LATEST)
def test_a_kill_at_a_named_point_changes_nothing(ingredients, finished, tmp_path, point, algorithm):
    latest = LATEST[point]
    drawn = random.Random(f"{point}/{algorithm}").sample(range(1, latest + 1), min(2, latest))
    for times in drawn:
        run, log = tmp_path / f"{times}", tmp_path / "log"
        process = forked(point, times, log, *arguments(ingredients, algorithm, run))
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        finish(ingredients, algorithm, run, log)
        assert_same_run(run, finished[algorithm])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(4))
def test_three_kills_at_random_moments_change_nothing(
    ingredients, finished, tmp_path, seed, algorithm
):
    moments = random.Random(f"{seed}/{algorithm}")
    run, log = tmp_path / "run", tmp_path / "log"
    for _ in range(3):
        resume = () if not (run / "recipe.yaml").exists() else ("--resume",)
        process = forked("none", 0, log, *arguments(ingredients, algorithm, run), *resume)
        deadline = time.monotonic() + 60
        while not has_checkpoint(run) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.6))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, log.read_text()
    else:
        finish(ingredients, algorithm, run, log)
    assert_same_run(run, finished[algorithm])


def arguments(ingredients, algorithm, run):
    recipe = str(ingredients / "recipe.yaml")
    return "train", recipe, f"algorithm={algorithm}", "--output", str(run)


def has_checkpoint(run):
    return any(run.glob("checkpoints/step-*"))


def finish(ingredients, algorithm, run, log):
    """Resumes a run; one that was killed before its first checkpoint is started again."""
    resume = ["--resume"]
    if not has_checkpoint(run):
        process = forked("none", 0, log, *arguments(ingredients, algorithm, run), *resume)
        process.join(120)
        assert process.exitcode == 2
        assert "start again without --resume" in log.read_text()
        run.rename(run.with_name(f"{run.name}-given-up"))
        resume = []
    process = forked("none", 0, log, *arguments(ingredients, algorithm, run), *resume)
    process.join(120)
    assert process.exitcode == 0, log.read_text()
