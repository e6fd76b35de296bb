"""Every row and every group of a real run is accounted for, and a change by hand is noticed."""

import json
import shutil

import pytest

from bapo.cli import main
from bapo.reporting.accounts import account_for
from bapo.reporting.runs import read_run
from bapo.training import train
from bapo.training.account import VERDICTS_KEPT
from bapo.training.progress import Silence
from tests.resumable_runs import (
    PROMPTS,
    DiedError,
    DyingProgress,
    json_lines,
    make_ingredients,
    recipe_of,
)

STEPS = 12
MOODY = """
def verify(completions, sign, **columns):
    if completions[0][:1] in tuple("agh"):
        raise ValueError("\\x1b[31mno " + completions[0])
    return [float(sign[0] in completions[0])]
"""
BAD_ROWS = (
    b"not JSON\n",
    b'{"id": "caf\xe9", "prompt": "1+1=", "sign": "1"}\n',
    b'{"id": "row-1", "prompt": "again", "sign": "1"}\n',
    b'{"id": "long", "prompt": "' + b"1" * 130 + b'", "sign": "1"}\n',
    b'{"id": "bare", "prompt": "1+1="}\n',
)
SETTINGS = (
    f"steps={STEPS}",
    "task.max_bad_share=0.4",
    "reward.max_invalid_share=1",
    "adaptation.max_retries=1",
    "training.checkpoint_every=5",
    "evaluation.every=0",
    "evaluation.prompts=2",
    "evaluation.training_prompts=0",
)


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory):
    """Data with five bad rows, and a verifier that raises on about a tenth of the answers."""
    folder = tmp_path_factory.mktemp("ingredients")
    make_ingredients(folder)
    (folder / "verifier.py").write_text(MOODY)
    with (folder / "train.jsonl").open("ab") as file:
        file.writelines(BAD_ROWS)
    return folder


class Auditor(Silence):
    """Adds the files up whenever a step has been written."""

    def __init__(self, run):
        self.run = run
        self.accounts = []

    def trained(self, step, steps, metrics):
        self.accounts.append(account_for(read_run(self.run)))


@pytest.fixture(scope="module")
def audited(ingredients, tmp_path_factory):
    """A finished run of BAPO, and its account after each step."""
    run = tmp_path_factory.mktemp("audited") / "run"
    auditor = Auditor(run)
    train(recipe_of(ingredients, *SETTINGS), run, progress=auditor)
    return run, auditor.accounts


def check(account, step):
    assert account.problems == []
    assert (account.steps, account.unfinished) == (step, 0)
    assert account.rows.total() == account.rows_read == PROMPTS + len(BAD_ROWS) + 3
    assert account.rows["quarantined"] == len(BAD_ROWS)
    assert account.rows["held out"] == 2
    assert account.rows["held out, not asked"] == 1


def test_the_sums_agree_after_every_step(audited):
    _, accounts = audited
    assert len(accounts) == STEPS
    for step, account in enumerate(accounts, start=1):
        check(account, step)
    # Four of ten prompts are drawn a step: two are left after the second, none after the third.
    assert accounts[0].rows["pending, not drawn yet"] == PROMPTS - 4
    assert accounts[1].rows["pending, not drawn yet"] == PROMPTS - 8
    assert accounts[2].rows["pending, not drawn yet"] == 0
    last = accounts[-1]
    assert last.verdicts > 0
    assert {source for source, _ in last.groups} == {"fresh", "retried", "reused"}
    assert last.groups["fresh", "unverified"] > 0


@pytest.mark.parametrize("algorithm", ["dapo", "grpo"])
def test_the_sums_agree_for_algorithms_without_buffers(ingredients, tmp_path, algorithm):
    auditor = Auditor(tmp_path / "run")
    recipe = recipe_of(ingredients, *SETTINGS, f"algorithm={algorithm}", "steps=4")
    train(recipe, tmp_path / "run", progress=auditor)
    for step, account in enumerate(auditor.accounts, start=1):
        check(account, step)


def test_the_sums_agree_after_a_death_and_a_resumption(ingredients, tmp_path):
    run, recipe = tmp_path / "run", recipe_of(ingredients, *SETTINGS)
    with pytest.raises(DiedError):
        train(recipe, run, progress=DyingProgress(7))
    check(account_for(read_run(run)), 7)
    auditor = Auditor(run)
    train(recipe, run, resume=True, progress=auditor)
    for step, account in enumerate(auditor.accounts, start=6):
        check(account, step)


def test_a_step_that_is_being_written_is_left_out_and_no_disagreement(audited, tmp_path):
    run = shutil.copytree(audited[0], tmp_path / "run")
    (run / "summary.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])
    account = account_for(read_run(run))
    assert account.problems == []
    assert account.unfinished >= 4


def test_quarantine_has_every_bad_row_with_its_reason_and_its_content(audited):
    rows = [line for line in json_lines(audited[0] / "quarantine.jsonl") if line["kind"] == "row"]
    first = PROMPTS + 1
    assert [row["row"] for row in rows] == list(range(first, first + len(BAD_ROWS)))
    assert [row["prompt_id"] for row in rows] == [None, None, None, "long", "bare"]
    for row, word in zip(
        rows,
        ("not JSON", "not UTF-8", "as line 2 of", "130 tokens", "column 'sign'"),
        strict=True,
    ):
        assert word in row["reason"]
        assert row["content"]


def test_quarantine_has_the_bad_verdicts_of_a_step_with_their_text(audited):
    run, accounts = audited
    lines = [line for line in json_lines(run / "quarantine.jsonl") if line["kind"] == "verdict"]
    assert 0 < len(lines) <= STEPS * VERDICTS_KEPT
    assert len(lines) == accounts[-1].verdicts  # few enough that all are kept
    for line in lines:
        assert line["status"] == "error"
        assert line["content"][0] in "agh"
        assert "The verifier raised ValueError" in line["reason"]


def shown(capsys, monkeypatch, run):
    monkeypatch.setattr("sys.argv", ["bapo", "inspect", str(run)])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        main()
    except SystemExit as leave:
        code = leave.code or 0
    return code, capsys.readouterr()


def one_line(text):
    """What a table says, whatever the width it was broken at."""
    return " ".join(text.replace("│", " ").split())


def test_inspect_shows_the_account_and_the_suspects(audited, capsys, monkeypatch):
    code, said = shown(capsys, monkeypatch, audited[0])
    assert code == 0, said.err
    assert "Rows, ledger, quarantine and metrics agree in every step." in one_line(said.out)
    assert f"of {PROMPTS + len(BAD_ROWS) + 3} read" in said.out
    for title in ("Rows of the data", "Suspect gold", "Verifier", "Do the sums agree?"):
        assert title in said.out
    assert "\x1b" not in said.out


def drop(lines, place):
    return lines[:place] + lines[place + 1 :]


def change(lines, place, **values):
    return [*lines[:place], {**lines[place], **values}, *lines[place + 1 :]]


def first(lines, **values):
    return next(
        place
        for place, line in enumerate(lines)
        if all(line.get(name) == value for name, value in values.items())
    )


TAMPERED = {
    "a group is gone": ("ledger", lambda x: drop(x, first(x, kind="group", source="fresh"))),
    "a retry is gone": ("ledger", lambda x: drop(x, first(x, source="retried"))),
    "a reused group is gone": ("ledger", lambda x: drop(x, first(x, source="reused"))),
    "an event is gone": ("ledger", lambda x: drop(x, first(x, event="reuse_entered"))),
    "a hard prompt is gone": ("ledger", lambda x: drop(x, first(x, event="hard_entered"))),
    "a line is there twice": ("ledger", lambda x: [x[0], *x]),
    "a step is gone": ("ledger", lambda x: [line for line in x if line["step"] != 4]),
    "steps are exchanged": ("ledger", lambda x: sorted(x, key=lambda line: line["step"] == 3)),
    "a group was trained on after all": (
        "ledger",
        lambda x: change(x, first(x, outcome="unverified"), outcome="trained"),
    ),
    "a group is of another prompt": ("ledger", lambda x: change(x, 0, prompt_id="somebody")),
    "a draw is another prompt's": (
        "ledger",
        lambda x: [
            {**line, "prompt_id": "row-0"}
            if line.get("source") == "fresh" and line["step"] > 2
            else line
            for line in x
        ],
    ),
    "a row is gone": ("rows", lambda x: drop(x, len(x) - 1)),
    "a row is there twice": ("rows", lambda x: [*x, x[3]]),
    "a bad row is gone": ("quarantine", lambda x: drop(x, 0)),
    "a bad verdict is gone": ("quarantine", lambda x: drop(x, first(x, kind="verdict"))),
    "a metric was changed": ("metrics", lambda x: change(x, 4, groups_sampled_fresh=5)),
    "a line of metrics is gone": ("metrics", lambda x: drop(x, 4)),
    "verdicts were made good": (
        "metrics",
        lambda x: [{**line, "verdicts_ok": line["rollouts"], "verdicts_error": 0} for line in x],
    ),
    "buffers were larger": ("metrics", lambda x: change(x, 6, hard_buffer_size=9)),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_change_by_hand_is_noticed(audited, tmp_path, what):
    name, tamper = TAMPERED[what]
    run = shutil.copytree(audited[0], tmp_path / "run")
    path = run / f"{name}.jsonl"
    lines = json_lines(path)
    path.write_text("".join(json.dumps(line) + "\n" for line in tamper(lines)))
    assert account_for(read_run(run)).problems


def test_inspect_leaves_with_an_error_where_the_sums_do_not_agree(
    audited, tmp_path, capsys, monkeypatch
):
    run = shutil.copytree(audited[0], tmp_path / "run")
    lines = json_lines(run / "ledger.jsonl")
    (run / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    code, said = shown(capsys, monkeypatch, run)
    assert code == 1
    assert "step 1: metrics.jsonl says groups_sampled_fresh = 4, the ledger 3" in one_line(said.out)
    assert "do not agree in" in said.err
