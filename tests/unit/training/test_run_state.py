"""The parts of a run's state that the runs of test_resume.py cannot tell from a fresh start."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from bapo.errors import CheckpointError, RunFolderError
from bapo.rollout import DelayedPolicy
from bapo.training import run_state
from bapo.training.loop import Loop
from bapo.training.prompt_stream import fingerprint
from bapo.training.run_folder import GROWING, RunFolder
from bapo.training.state_files import read_tree, write_tree
from tests.builders import make_prompt
from tests.resumable_runs import assert_same


@pytest.fixture
def folder(tmp_path):
    opened = RunFolder(tmp_path)
    yield opened
    opened.close()


def draws():
    return random.random(), np.random.random(), torch.rand(1).item()


def test_the_global_generators_come_back_through_a_file(tmp_path):
    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)
    draws()
    np.random.standard_normal()  # leaves a second number waiting
    write_tree(tmp_path, "generators", run_state._generators())
    expected = [*draws(), np.random.standard_normal()]
    draws()
    run_state._load_generators(read_tree(tmp_path, "generators"))
    assert [*draws(), np.random.standard_normal()] == expected


def test_the_behavior_weights_come_back_to_the_bit_and_apart_from_the_policy(tmp_path):
    delayed = DelayedPolicy(2)
    policy = {"weight": torch.randn(3, generator=torch.Generator().manual_seed(0))}
    delayed.sync(3, policy)
    copied = policy["weight"].clone()
    policy["weight"].add_(1.0)
    write_tree(tmp_path, "behavior", delayed.state_dict())
    back = DelayedPolicy(2)
    back.load_state_dict(read_tree(tmp_path, "behavior"))
    assert back.version == 2
    assert_same(dict(back.weights), {"weight": copied})


def test_steps_that_were_not_finite_in_a_row_are_counted_on():
    parts = dict.fromkeys(
        ("recipe", "stream", "policies", "engine", "verify", "adaptation", "learner")
    )
    loop = Loop(**parts, step=7, _nonfinite_in_a_row=4)
    back = Loop(**parts)
    back.load_state_dict(json.loads(json.dumps(loop.state_dict())))
    assert back.state_dict() == {"step": 7, "nonfinite_in_a_row": 4}


def test_the_fingerprint_depends_on_place_content_and_columns_of_the_prompts():
    one, two = make_prompt("1", columns={"gold": 3}), make_prompt("2")
    different = [
        ([one, two], []),
        ([two, one], []),
        ([one], [two]),
        ([one], []),
        ([make_prompt("1", columns={"gold": 4}), two], []),
        ([make_prompt("1", columns={"gold": 3}, content="x"), two], []),
    ]
    prints = [fingerprint(*prompts) for prompts in different]
    assert len(set(prints)) == len(different)
    again = make_prompt("1", columns={"gold": 3})
    assert fingerprint([again, make_prompt("2")], ()) == prints[0]


# --- the files that lines are added to ---


def test_lines_added_after_a_position_are_cut_back_with_a_torn_one(folder):
    folder.append("metrics.jsonl", [{"step": 1}])
    positions = folder.positions()
    assert positions == dict.fromkeys(GROWING, 0) | {"metrics.jsonl": len('{"step": 1}\n')}
    folder.append("metrics.jsonl", [{"step": 2}])
    folder.append("ledger.jsonl", [{"step": 2}])
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"ste')
    folder.check_positions(positions)
    folder.cut_back(positions)
    assert (folder.path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert (folder.path / "ledger.jsonl").read_text() == ""


def test_a_file_that_is_shorter_than_it_was_or_gone_is_found(folder):
    folder.append("ledger.jsonl", [{"step": 1}, {"step": 1}])
    positions = folder.positions()
    path = folder.path / "ledger.jsonl"
    path.write_text('{"step": 1}\n')
    with pytest.raises(CheckpointError, match="lost lines: 12 of 24 bytes"):
        folder.check_positions(positions)
    path.unlink()
    with pytest.raises(CheckpointError, match="lost lines: 0 of 24 bytes"):
        folder.check_positions(positions)


def test_a_file_whose_lines_moved_is_found(folder):
    folder.append("ledger.jsonl", [{"step": 1}])
    positions = folder.positions()
    (folder.path / "ledger.jsonl").write_text('{"step":  1}\n')
    with pytest.raises(CheckpointError, match="was changed"):
        folder.check_positions(positions)


def test_evaluations_are_read_up_to_a_position(folder):
    prompt = {"id": "p", "level": "", "correct": 1, "valid": 2}
    line = {"step": 0, "split": "held_out", "samples": 2, "prompts": [prompt]}
    folder.append("evaluation.jsonl", [line])
    positions = folder.positions()
    folder.append("evaluation.jsonl", [line | {"step": 5}])
    found = run_state.evaluations_so_far(folder, positions)
    assert list(found) == [("held_out", 0)]
    assert found["held_out", 0].pass_at_1 == 0.5


@pytest.mark.parametrize("line", ["not json\n", "{}\n", "[1]\n"])
def test_evaluations_that_no_run_writes_are_named(folder, line):
    (folder.path / "evaluation.jsonl").write_text(line)
    with pytest.raises(RunFolderError, match=r"evaluation\.jsonl"):
        run_state.evaluations_so_far(folder, folder.positions())


def test_a_file_is_replaced_whole_or_not_at_all(folder, monkeypatch):
    folder.write_json("summary.json", {"steps": 1})
    assert folder.finished_steps == 1

    def full(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunFolderError, match=r"summary\.json' cannot be written: No space left"):
        folder.write_json("summary.json", {"steps": 2})
    assert folder.finished_steps == 1


def test_lines_that_cannot_be_written_end_in_a_sentence(folder):
    (folder.path / "metrics.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl' cannot be written: Is a directory"):
        folder.append("metrics.jsonl", [{"step": 1}])
