"""Tiny runs that are ended and resumed, and what must be equal in the end, bit for bit."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bapo.config import Recipe, resolve_recipe
from bapo.training.progress import Silence
from bapo.training.state_files import read_tree
from tests.rollout_models import CHARACTERS, save_policy, tiny_model

STEPS = 8
PROMPTS = 10
"""With 4 prompts a step, epochs meet within steps 3 and 8, and exactly between steps 5 and 6."""

VERIFIER = '''
"""Right is a completion that has the row's sign in it."""


def verify(completions, sign, **columns):
    return [float(one in text) for one, text in zip(sign, completions)]
'''


def make_ingredients(folder: Path) -> Path:
    """A model, data and a verifier, on which every source of a batch comes up within a few steps.

    Returns:
        The path of a recipe that names them.
    """
    model = tiny_model(
        num_hidden_layers=1,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    save_policy(folder / "base", model)
    (folder / "verifier.py").write_text(VERIFIER)
    rows = [
        {"id": f"row-{number}", "prompt": f"{number}+{number}=", "sign": CHARACTERS[number]}
        for number in range(PROMPTS + 3)
    ]
    for name, part in (("train", rows[:PROMPTS]), ("held-out", rows[PROMPTS:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_content(folder), sort_keys=False))
    return recipe


def recipe_content(folder: Path) -> dict[str, Any]:
    """The recipe of `make_ingredients`, as plain values."""
    return {
        "algorithm": "bapo",
        "model": str(folder / "base"),
        "task": {
            "name": "dataset",
            "path": str(folder / "train.jsonl"),
            "evaluation_path": str(folder / "held-out.jsonl"),
            "id_column": "id",
        },
        "steps": STEPS,
        "adaptation": {"behavior_sync_every": 2, "retry_every": 2},
        "rollout": {"group_size": 4, "max_new_tokens": 8},
        "reward": {"verifier": f"{folder / 'verifier.py'}:verify", "workers": 1},
        "training": {
            "batch_groups": 4,
            "learning_rate": 0.01,
            "checkpoint_every": 3,
            "keep_checkpoints": 2,
        },
        "evaluation": {
            "every": 2,
            "prompts": 3,
            "samples": 2,
            "training_prompts": 4,
            "training_samples": 2,
            "examples": 2,
        },
    }


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    """The recipe of `make_ingredients`, resolved."""
    return resolve_recipe(recipe_content(folder), overrides)


class DiedError(Exception):
    """Ends a run in this process, where it stands and without a chance to save."""


class DyingProgress(Silence):
    """Ends the run when a step has been written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def trained(self, step: int, steps: int, metrics: Mapping[str, Any]) -> None:
        if step == self._step:
            raise DiedError


class Listener(Silence):
    """Keeps the stages that it hears of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, text: str) -> None:
        self.heard.append(text)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trees_of(run: Path, step: int) -> dict[str, Any]:
    """Everything in a checkpoint but what a clock has said or what depends on it."""
    folder = run / "checkpoints" / f"step-{step:06d}"
    names = ("model", "optimizer", "behavior", "adaptation", "generators", "run")
    trees = {name: read_tree(folder, name) for name in names}
    del trees["run"]["totals"]["seconds"]
    del trees["run"]["positions"]
    del trees["adaptation"]["reuse_buffer"]["groups"]["milliseconds"]
    return trees


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Two trees have the same shape, the same types and the same bits."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{where}/{number}")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype, where
        assert_same(left.numpy(), right.numpy(), where)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype, where
        assert left.shape == right.shape, where
        assert left.tobytes() == right.tobytes(), where
    else:
        assert left == right, where


def assert_same_run(run: Path, expected: Path, steps: int = STEPS) -> None:
    """Two finished runs are the same but for what clocks have said."""
    for name in ("ledger.jsonl", "examples.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        assert without_seconds(run / name) == without_seconds(expected / name), name
    one, other = (json.loads((path / "summary.json").read_text()) for path in (run, expected))
    assert one | {"seconds": 0} == other | {"seconds": 0}
    assert_same(trees_of(run, steps), trees_of(expected, steps))


def without_seconds(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if not key.startswith("seconds")}
        for line in json_lines(path)
    ]


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a run folder, to be spoiled."""
    return Path(shutil.copytree(run, folder))
