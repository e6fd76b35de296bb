"""A toy task is learned by every preset, through the path that `bapo train` takes.

The random model begins 5 to 9 % of its answers with the letter asked for, and more than half of its
groups of eight are all wrong. The bar is 60 % on prompts that were never trained on; measured on
four seeds, every preset reached 80 % or more, and without learning it stays at 5 to 9.
"""

import json

import pytest

from bapo.config import PRESETS
from bapo.training import train
from tests.toy_task import toy_recipe, write_toy

STEPS = 40
BAR = 0.6
GROUPS = 16


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


def trained(toy, output, algorithm, **sections):
    """The summary and the lines of metrics.jsonl of one run."""
    recipe = toy_recipe(toy, steps=STEPS, algorithm=algorithm, **sections)
    summary = train(recipe, output)
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return summary, [json.loads(line) for line in lines]


def total(metrics, key):
    return sum(line[key] for line in metrics)


# Beside the accuracy, what makes the preset what it is must have happened in the run.
SIGNS = {
    "grpo": lambda m: (
        total(m, "groups_fresh") == STEPS * GROUPS and total(m, "forward_tokens") == 0
    ),
    "grpo_delayed": lambda m: {line["staleness_mean"] for line in m} == {0, 1},
    "filtered": lambda m: total(m, "groups_fresh") < STEPS * GROUPS,
    "dapo": lambda m: (
        total(m, "groups_sampled_fresh") > STEPS * GROUPS and m[0]["groups_fresh"] == GROUPS
    ),
    "bapo": lambda m: total(m, "groups_retried") > 0 and total(m, "groups_reused") > 0,
    "bapo_no_retry": lambda m: (
        total(m, "groups_sampled_retried") == 0 and total(m, "groups_reused") > 0
    ),
    "bapo_no_reuse": lambda m: total(m, "groups_retried") > 0 and total(m, "groups_reused") == 0,
}


def test_every_preset_is_tried():
    assert SIGNS.keys() == PRESETS.keys()


@pytest.mark.parametrize("algorithm", SIGNS)
def test_the_toy_task_is_learned(toy, tmp_path, algorithm):
    # Near the end nearly all groups are all right, and dapo would ask ten times as many.
    rounds = {"adaptation": {"max_resample_rounds": 2}} if algorithm == "dapo" else {}
    summary, metrics = trained(toy, tmp_path / "run", algorithm, **rounds)
    assert summary["held_out_before"] < 0.15
    assert summary["held_out_after"] > BAR
    assert SIGNS[algorithm](metrics)
    assert total(metrics, "updates_skipped") == 0
    assert total(metrics, "rollouts") == summary["rollouts"]


@pytest.mark.parametrize("algorithm", ["grpo", "bapo"])
def test_without_a_learning_rate_nothing_is_learned(toy, tmp_path, algorithm):
    summary, _ = trained(toy, tmp_path / "run", algorithm, training={"learning_rate": 1e-9})
    assert summary["held_out_after"] == pytest.approx(summary["held_out_before"], abs=0.02)
    assert summary["held_out_after"] < BAR


def test_rewarding_the_wrong_answers_unlearns_what_little_the_model_knew(toy, tmp_path):
    """The other direction: what rises is what the verifier rewards, and not something of its own.

    The model is measured by the same verifier, for which now nearly every answer is right.
    """
    (toy / "opposite.py").write_text(
        "def verify(completions, letter, **columns):\n"
        "    return [text[:1] != wanted for text, wanted in zip(completions, letter)]\n"
    )
    summary, _ = trained(
        toy, tmp_path / "run", "bapo", reward={"verifier": f"{toy / 'opposite.py'}:verify"}
    )
    assert 0.85 < summary["held_out_before"] < 0.98 < summary["held_out_after"]
