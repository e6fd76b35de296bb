"""The same seed gives the same run, bit for bit but for the seconds; another seed does not."""

import json
import random

import numpy as np
import pytest
import torch

from bapo.training import train
from tests.toy_task import toy_recipe, write_toy

FILES = ("metrics.jsonl", "evaluation.jsonl", "examples.jsonl", "ledger.jsonl", "summary.json")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


def run(toy, output, seed, algorithm):
    """Every file of a run as text, with the seconds taken out, and its final weights as bytes."""
    recipe = toy_recipe(
        toy,
        steps=7,
        seed=seed,
        algorithm=algorithm,
        reward={"workers": 2},
        training={"batch_groups": 8, "learning_rate": 1e-3},
        evaluation={"every": 3, "prompts": 10, "samples": 4, "training_prompts": 10},
    )
    train(recipe, output)
    return {name: without_seconds((output / name).read_text()) for name in FILES}, (
        output / "model" / "model.safetensors"
    ).read_bytes()


def without_seconds(text):
    """JSON lines, or one JSON object, without the keys that hold time or memory."""
    measured = ("seconds", "peak_memory")

    def drop(content):
        return {key: value for key, value in content.items() if not key.startswith(measured)}

    try:
        lines = [json.loads(line) for line in text.splitlines()]
    except json.JSONDecodeError:
        lines = [json.loads(text)]
    return "\n".join(json.dumps(drop(line)) for line in lines)


def disturb_global_generators():
    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)


@pytest.mark.parametrize("algorithm", ["bapo", "dapo"])
def test_the_same_seed_gives_the_same_run_to_the_bit_and_another_does_not(toy, tmp_path, algorithm):
    first, weights = run(toy, tmp_path / "first", 0, algorithm)
    disturb_global_generators()
    again, weights_again = run(toy, tmp_path / "again", 0, algorithm)
    assert again == first
    assert weights_again == weights
    other, other_weights = run(toy, tmp_path / "other", 1, algorithm)
    assert all(other[name] != first[name] for name in FILES)
    assert other_weights != weights


def test_taking_the_seconds_out_leaves_everything_else():
    """What the comparison above rests on."""
    line = (
        '{"step": 1, "seconds": 2.5, "seconds_rollout": 1.0, "rollouts": 8, "peak_memory_bytes": 9}'
    )
    assert without_seconds(line) == '{"step": 1, "rollouts": 8}'
    assert without_seconds('{\n "status": "finished",\n "seconds": 1\n}\n') == (
        '{"status": "finished"}'
    )
