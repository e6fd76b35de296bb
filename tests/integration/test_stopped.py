"""A step that stops the run for its verdicts is on record, and the run can go on from before it."""

from collections import Counter

import pytest

from bapo.errors import RunStoppedError
from bapo.reporting.accounts import account_for
from bapo.reporting.runs import read_run
from bapo.training import train
from bapo.training.progress import Silence
from tests.resumable_runs import assert_same_run, json_lines, make_ingredients, recipe_of

STOPPED, VERIFIED = 5, 2
MOODY = """
from pathlib import Path

def verify(completions, sign, **columns):
    if sign[0] in "1357" and Path({marker!r}).exists():
        raise ValueError("out of order")
    return [float(one in text) for one, text in zip(sign, completions)]
"""


class Breaking(Silence):
    """Breaks the verifier once the step before has been written."""

    def __init__(self, marker):
        self.marker = marker

    def trained(self, step, steps, metrics):
        if step == STOPPED - 1:
            self.marker.touch()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that stopped in step 5, after the checkpoint of step 3, and its verifier's switch."""
    folder = tmp_path_factory.mktemp("stopped")
    marker = folder / "broken"
    make_ingredients(folder)
    (folder / "verifier.py").write_text(MOODY.format(marker=str(marker)))
    recipe = recipe_of(folder, "evaluation.every=3", "reward.max_invalid_share=0.2")
    train(recipe, folder / "whole")
    with pytest.raises(RunStoppedError, match=f"stopped at step {STOPPED}: ") as caught:
        train(recipe, folder / "run", progress=Breaking(marker))
    assert caught.value.exit_code == 3
    marker.unlink()
    return folder, recipe


def test_every_sampled_group_of_the_stopping_step_has_a_fate_and_the_sums_agree(runs):
    run = runs[0] / "run"
    *before, last = json_lines(run / "metrics.jsonl")
    assert (len(before), last["step"]) == (STOPPED - 1, STOPPED)
    fates = [
        line
        for line in json_lines(run / "ledger.jsonl")
        if line["step"] == STOPPED and line["kind"] == "group"
    ]
    assert len(fates) == last["groups_sampled_fresh"] + last["groups_sampled_retried"] == 4
    outcomes = Counter(line["outcome"] for line in fates)
    assert outcomes == {"unverified": last["groups_unverified"], "run_stopped": VERIFIED}
    assert last["verdicts_error"] == 4 * last["groups_unverified"]
    assert last["updates"] == last["groups_fresh"] == last["groups_reused"] == 0
    account = account_for(read_run(run))
    assert (account.problems, account.unfinished, account.steps) == ([], 0, STOPPED)
    assert account.groups["fresh", "run_stopped"] == VERIFIED


def test_a_stopped_run_resumed_with_its_verifier_put_right_is_the_one_that_never_stopped(runs):
    folder, recipe = runs
    train(recipe, folder / "run", resume=True)
    assert_same_run(folder / "run", folder / "whole")
    assert account_for(read_run(folder / "run")).problems == []
