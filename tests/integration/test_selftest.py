"""`bapo selftest` holds here; and where a part of bapo is broken, it says so."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from bapo import cli
from bapo.reward import pool, process
from bapo.rollout import EmbeddedEngine
from bapo.selftest import Bench, Form, Outcome, carry_out, checks
from bapo.selftest.processes import living_workers
from bapo.training import checkpoints, manifest
from bapo.training.learner import Learner
from tests import broken_command

LONG = checks(Form.LONG)


def named(name):
    (check,) = [check for check in LONG if check.name == name]
    return check


@pytest.fixture
def selftest(monkeypatch, capsys, tmp_path):
    """Runs `bapo selftest` in this process; gives exit code and what it shows, in one line."""
    command_line = cli.main

    def run(*arguments, tried=command_line):
        monkeypatch.setattr(cli, "main", tried)
        given = ["bapo", "selftest", *arguments, "--folder", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", given)
        code = 0
        try:
            command_line()
        except SystemExit as end:
            code = end.code or 0
        shown = capsys.readouterr()
        return code, " ".join((shown.out + shown.err).split())

    return run


@pytest.fixture
def result(tmp_path):
    """Carries a check out on the command line, or on a broken one; gives outcome and detail."""

    def of(name, command=cli.main):
        found = carry_out(named(name), Bench(tmp_path, command))
        return found.outcome, found.detail

    return of


def test_the_quick_form_holds_through_the_real_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bapo", "selftest", "--quick", "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"COLUMNS": "300"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for check in checks(Form.QUICK):
        assert check.name in done.stdout
    assert f"{len(checks(Form.QUICK))} held, 0 failed, 0 not possible here" in done.stdout or (
        "0 failed" in done.stdout and "mount no file system" in done.stdout
    )
    assert list(tmp_path.iterdir()) == []


def test_a_restoration_that_leaves_out_the_buffers_fails_the_table(selftest, tmp_path):
    code, shown = selftest(
        "--quick", "--only", "killed three times after", tried=broken_command.without_buffers
    )
    assert code == 1
    assert "0 held, 1 failed" in shown
    (left,) = tmp_path.iterdir()
    assert f"What the failed runs left is in {left}." in shown


def test_a_run_that_goes_on_without_its_checkpoint_fails(result):
    outcome, detail = result("write refused", broken_command.without_refusal)
    assert outcome is Outcome.FAILED
    assert "exit code 0" in detail


def test_a_checkpoint_that_is_not_looked_at_byte_by_byte_fails(result, monkeypatch):
    def trusting(folder):
        return manifest._read(folder / manifest.MANIFEST)

    monkeypatch.setattr(checkpoints, "verified_manifest", trusting)
    outcome, detail = result("a file changed in one bit")
    assert outcome is Outcome.FAILED
    assert "with adaptation.json spoiled, the checkpoint of step 6 is used" in detail


def test_log_probabilities_that_are_not_those_of_the_samples_fail(result, monkeypatch):
    sample = EmbeddedEngine.sample

    def shifted(*arguments, **named_arguments):
        rollouts = sample(*arguments, **named_arguments)
        return [
            dataclasses.replace(
                rollout,
                completions=tuple(
                    dataclasses.replace(one, behavior_logps=one.behavior_logps + 0.001)
                    for one in rollout.completions
                ),
            )
            for rollout in rollouts
        ]

    monkeypatch.setattr(EmbeddedEngine, "sample", shifted)
    outcome, detail = result("sampled log-probabilities")
    assert (outcome, detail) == (Outcome.FAILED, "they differ by up to 0.001")


def test_a_skipped_update_that_moves_the_optimizer_fails(result, monkeypatch):
    update = Learner.update

    def careless(learner, batch):
        report = update(learner, batch)
        if report.nonfinite:
            for state in learner._optimizer.state.values():
                state["step"] += 1
        return report

    monkeypatch.setattr(Learner, "update", careless)
    outcome, detail = result("NaN and infinity in an update")
    assert outcome is Outcome.FAILED
    assert "the skipped update changed them: weights and optimizer/optimizer/state/0/step" in detail


def test_a_process_that_outlives_the_pool_fails(result, monkeypatch):
    for module in (pool, process):
        monkeypatch.setattr(module, "kill_marked", lambda marker: None)
    try:
        outcome, detail = result("one that leaves a child behind and answers")
        assert (outcome, detail) == (Outcome.FAILED, "1 processes outlive the pool")
    finally:
        for left in living_workers():
            os.kill(left, signal.SIGKILL)


def test_checks_are_chosen_by_a_text_and_none_is_a_mistake(selftest):
    code, shown = selftest("--quick", "--only", "os._exit")
    assert code == 0
    assert "1/1 one that calls os._exit: held" in shown
    code, shown = selftest("--only", "no such thing")
    assert code == 2
    assert "No check has 'no such thing' in its row" in shown


def test_options_that_cannot_be_are_refused(selftest, tmp_path, monkeypatch):
    code, shown = selftest("--quick", "--long")
    assert code == 2
    assert "exclude each other" in shown
    monkeypatch.setattr(sys, "argv", ["bapo", "selftest", "--folder", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One for all checks of the long form, so that the runs never ended are made once."""
    return Bench(tmp_path_factory.mktemp("bench"), cli.main)


@pytest.mark.slow
@pytest.mark.parametrize("check", LONG, ids=lambda check: check.name)
def test_the_long_form_holds(check, bench):
    found = carry_out(check, bench)
    if found.outcome is Outcome.NOT_POSSIBLE:
        pytest.skip(found.detail)
    assert found.outcome is Outcome.HELD, found.detail
