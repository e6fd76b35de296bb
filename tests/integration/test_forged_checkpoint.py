"""Checkpoints that verify by their hashes and are not what this version writes: one sentence."""

import json
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from bapo.cli import main
from bapo.config import load_recipe
from bapo.errors import CheckpointError, RunFolderError
from bapo.training import manifest as module
from bapo.training import train
from bapo.training.checkpoints import Checkpoint
from bapo.training.manifest import MANIFEST, verified_manifest, write_manifest
from bapo.training.preparation import prepare
from bapo.training.progress import Silence
from bapo.training.run_state import load_run_state
from bapo.training.state_files import read_tree, write_tree
from tests.resumable_runs import DiedError, DyingProgress, copy_of, make_ingredients, recipe_of


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    """A run with one checkpoint, of step 6, and groups and prompts in both buffers."""
    folder = tmp_path_factory.mktemp("died")
    make_ingredients(folder)
    recipe = recipe_of(folder, "training.keep_checkpoints=1")
    with pytest.raises(DiedError):
        train(recipe, folder / "run", progress=DyingProgress(7))
    state = read_tree(folder / "run" / "checkpoints" / "step-000006", "adaptation")
    assert state["hard_buffer"]["entries"]
    assert len(state["reuse_buffer"]["entered"]) > 1
    return folder / "run"


@pytest.fixture(scope="module")
def parts(died):
    with ExitStack() as stack:
        yield prepare(load_recipe(died / "recipe.yaml"), died, Silence(), stack)


def forge(run, name, change):
    """Changes a tree of the checkpoint, and makes its manifest anew; gives its folder."""
    folder = run / "checkpoints" / "step-000006"
    tree = read_tree(folder, name)
    forged = change(tree)
    for path in (*folder.glob(f"{name}.*"), folder / MANIFEST):
        path.unlink()
    write_tree(folder, name, tree if forged is None else forged)
    write_manifest(folder, 6, 0.1)
    return folder


@pytest.fixture
def resumed(monkeypatch, capsys):
    """Resumes a run through the command line, and gives its exit code and what it says."""

    def said_by(run):
        command = ["bapo", "train", str(run / "recipe.yaml"), "--output", str(run), "--resume"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as leave:
            main()
        said = capsys.readouterr()
        return leave.value.code, " ".join(said.err.split())

    return said_by


def put(*path, value):
    def change(tree):
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


def without(*path):
    def change(tree):
        for key in path[:-1]:
            tree = tree[key]
        del tree[path[-1]]

    return change


def groups(name, change):
    """Changes one array of the groups in the reuse buffer."""

    def forge(tree):
        tree["reuse_buffer"]["groups"][name] = change(tree["reuse_buffer"]["groups"][name])

    return forge


FORGED = {
    "optimizer: no settings": ("optimizer", without("param_groups")),
    "optimizer: other settings": ("optimizer", put("param_groups", 0, "eps", value=1.0)),
    "optimizer: moments of another shape": (
        "optimizer",
        put("state", 0, "exp_avg", value=torch.zeros(3)),
    ),
    "optimizer: no second moments": ("optimizer", without("state", 1, "exp_avg_sq")),
    "optimizer: a parameter too many": ("optimizer", put("state", 999, value={})),
    "optimizer: a list": ("optimizer", lambda tree: [1, 2]),
    "behavior: no weights": ("behavior", put("weights", value={})),
    "behavior: another shape": (
        "behavior",
        put("weights", "model.norm.weight", value=torch.zeros(2)),
    ),
    "behavior: another version": ("behavior", put("version", value="new")),
    "adaptation: no strength": ("adaptation", without("policy_strength")),
    "adaptation: a strength in words": ("adaptation", put("policy_strength", "mean", value="big")),
    "adaptation: a prompt without columns": (
        "adaptation",
        without("hard_buffer", "entries", 0, "prompt", "columns"),
    ),
    "adaptation: a group less": ("adaptation", without("reuse_buffer", "entered", 0)),
    "adaptation: tokens are missing": ("adaptation", groups("token_ids", lambda ids: ids[:-1])),
    "adaptation: tokens of another type": (
        "adaptation",
        groups("token_ids", lambda ids: ids.astype(np.float32)),
    ),
    "adaptation: tokens that the model lacks": (
        "adaptation",
        groups("token_ids", lambda i: i + 99),
    ),
    "adaptation: no verdicts": ("adaptation", groups("correct", lambda correct: correct[:0])),
    "adaptation: an unknown status": ("adaptation", groups("statuses", lambda s: ["new", *s[1:]])),
    "adaptation: groups of no size": ("adaptation", groups("group_sizes", lambda sizes: 0 * sizes)),
    "run: no totals": ("run", without("totals")),
    "run: totals in words": ("run", put("totals", "rollouts", value="many")),
    "run: a place that the data lack": ("run", put("stream", "waiting", value=[999])),
    "generators: too short": ("generators", put("torch", value=torch.zeros(5, dtype=torch.uint8))),
    "generators: none": ("generators", lambda tree: tree.clear()),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_tree_that_is_not_what_this_version_writes_is_named(died, parts, tmp_path, what):
    name, change = FORGED[what]
    folder = forge(copy_of(died, tmp_path / "run"), name, change)
    with pytest.raises(CheckpointError) as caught:
        load_run_state(Checkpoint(folder, verified_manifest(folder)), parts)
    said = str(caught.value)
    assert f"is whole, but its '{name}' is not what this version of bapo writes" in said
    assert said.endswith("remove the checkpoint to go on from the one before.")


def test_the_command_line_says_so_in_one_sentence_and_leaves_the_run_as_it_is(
    resumed, died, tmp_path
):
    run = copy_of(died, tmp_path / "run")
    forge(run, "optimizer", without("param_groups"))
    before = {path: path.read_bytes() for path in run.glob("*.*") if path.name != ".lock"}
    code, said = resumed(run)
    assert code == 1
    assert said.startswith("bapo: The checkpoint '")
    assert "KeyError: 'param_groups'" in said
    assert {path: path.read_bytes() for path in before} == before


def test_weights_of_another_shape_are_those_of_another_model(died, parts, tmp_path):
    change = put("model.norm.weight", value=torch.zeros(2))
    folder = forge(copy_of(died, tmp_path / "run"), "model", change)
    with pytest.raises(RunFolderError, match="model has other weights by name or shape"):
        load_run_state(Checkpoint(folder, verified_manifest(folder)), parts)


REJECTED = {
    "no positions": (without("positions"), "KeyError: 'positions'"),
    "a place before the file": (
        put("positions", "ledger.jsonl", value=-3),
        "its place in ledger.jsonl is -3",
    ),
    "another step": (put("loop", "step", value=5), "ValueError: step 5"),
    "no recipe": (put("recipe", value=None), "'run' is not what this version"),
    "a list": (lambda tree: [tree], "'run' is not what this version"),
}


@pytest.mark.parametrize("what", REJECTED)
def test_a_checkpoint_that_cannot_be_placed_in_the_run_is_passed_over(
    resumed, died, tmp_path, what
):
    change, reason = REJECTED[what]
    run = copy_of(died, tmp_path / "run")
    forge(run, "run", change)
    code, said = resumed(run)
    assert code == 2
    assert "no checkpoint that it could be resumed from: the checkpoint of step 6 is not" in said
    assert reason in said


def test_a_checkpoint_of_a_newer_format_asks_for_the_version_that_made_it(
    resumed, died, tmp_path, monkeypatch
):
    run = copy_of(died, tmp_path / "newer")
    folder = run / "checkpoints" / "step-000006"
    (folder / MANIFEST).unlink()
    newer = module.FORMAT + 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", newer)
        write_manifest(folder, 6, 0.1)
    assert json.loads((folder / MANIFEST).read_text())["format"] == newer
    code, said = resumed(run)
    assert code == 2
    assert f"it has the format {newer}, and this version of bapo reads only {newer - 1}" in said
    assert "resume with the one that made it, which environment.json names" in said


def test_structures_nested_beyond_reason_are_no_traceback(resumed, died, tmp_path):
    run = copy_of(died, tmp_path / "deep")
    folder = run / "checkpoints" / "step-000006"
    (folder / MANIFEST).unlink()
    (folder / "run.json").write_text("[" * 100_000)
    write_manifest(folder, 6, 0.1)
    code, said = resumed(run)
    assert code == 2
    assert "has a 'run' that no run has written" in said
