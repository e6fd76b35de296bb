"""The control beside "unsolved problems solved": an unchanged policy must score exactly as it."""

import json

from bapo.training import train
from tests.toy_task import toy_recipe, write_toy


def test_a_policy_that_did_not_change_solves_exactly_what_the_control_solves(tmp_path):
    folder = write_toy(tmp_path)
    recipe = toy_recipe(
        folder,
        steps=2,
        training={"learning_rate": 1e-30},
        evaluation={"prompts": 4, "training_prompts": 200, "training_samples": 4},
    )

    summary = train(recipe, tmp_path / "run")

    lines = (tmp_path / "run" / "evaluation.jsonl").read_text().splitlines()
    asked = {(line["split"], line["step"]): line["prompts"] for line in map(json.loads, lines)}
    assert asked["training", 2] == asked["training_again", 0]
    assert asked["training", 2] != asked["training", 0]
    assert summary["unsolved_solved"] == summary["unsolved_solved_by_base"]
    assert 0 < summary["unsolved_solved"] < summary["unsolved"]
