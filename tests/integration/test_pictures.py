"""Image-text models through whole runs: trained, resumed, saved, evaluated blind, bad pictures."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from bapo.cli import app
from bapo.config import ModelSettings, load_warmstart_recipe, resolve_recipe
from bapo.errors import SettingError
from bapo.rollout import load_policy
from bapo.tasks import build_worked_task
from bapo.training import train, warmstart
from tests.picture_models import save_picture_policy
from tests.resumable_runs import DiedError, DyingProgress, assert_same_run
from tests.unit.tasks.test_image_cells import rows_with_bytes, write_parquet

VERIFIER = """
def verify(completions, **columns):
    return [any(letter in text for letter in "0123456789") for text in completions]
"""
STEPS = 3
VISION = {"qwen2_5_vl": "visual", "llava": "vision_tower", "idefics3": "vision_model"}


def recipe_of(folder, task, *overrides):
    (folder / "verifier.py").write_text(VERIFIER)
    content = {
        "model": {"path": str(folder / "base"), "device": "cpu"},
        "task": task,
        "steps": STEPS,
        "adaptation": {"behavior_sync_every": 2, "retry_every": 2},
        "rollout": {"group_size": 4, "max_new_tokens": 4, "max_prompt_tokens": 200},
        "reward": {"verifier": f"{folder / 'verifier.py'}:verify", "workers": 1},
        "training": {"batch_groups": 4, "learning_rate": 1e-3, "checkpoint_every": 1},
        "evaluation": {"every": 0, "prompts": 4, "samples": 2, "training_prompts": 0},
    }
    return resolve_recipe(content, overrides)


@pytest.mark.parametrize("architecture", ["qwen2_5_vl", "llava", "idefics3"])
def test_a_run_trains_both_towers_and_resumes_bit_for_bit(tmp_path, architecture):
    save_picture_policy(tmp_path / "base", architecture)
    recipe = recipe_of(tmp_path, {"name": "geometry", "train_size": 12})

    train(recipe, tmp_path / "whole")

    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    seeing = {name for name in after if VISION[architecture] in name}
    assert seeing & moved
    assert moved - seeing
    with pytest.raises(DiedError):
        train(recipe, tmp_path / "cut", progress=DyingProgress(2))
    train(recipe, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole", STEPS)
    again = load_policy(ModelSettings(path=str(tmp_path / "whole" / "model"), device="cpu"))
    assert type(again.processor).__name__ == type(again.model).__name__.replace(
        "ForConditionalGeneration", "Processor"
    )


def test_a_checkpoint_holds_references_and_no_pixels(tmp_path):
    save_picture_policy(tmp_path / "base", "llava")
    train(recipe_of(tmp_path, {"name": "geometry", "train_size": 12}), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / f"step-{STEPS:06d}"
    state = json.loads((folder / "adaptation.json").read_text())
    text = json.dumps(state)
    assert '"drawn", "geometry"' in text
    numbers = folder / "adaptation.safetensors"
    size = numbers.stat().st_size if numbers.is_file() else 0
    assert size < 56 * 56 * 3  # the pixels of a single picture


def test_a_picture_that_cannot_be_read_is_set_aside_before_the_first_step(tmp_path):
    save_picture_policy(tmp_path / "base", "llava")
    rows = rows_with_bytes(40, (56, 56))
    rows[3]["images"][0]["bytes"] = b"no picture"
    task = {
        "name": "dataset",
        "path": write_parquet(tmp_path / "rows.parquet", rows),
        "prompt_column": "problem",
        "template": "<image>{answer}",
        "image_column": "images",
    }
    recipe = recipe_of(tmp_path, task, "rollout.max_prompt_tokens=60", "steps=1")
    train(recipe, tmp_path / "run")
    (line,) = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["row"] == 4
    assert entry["reason"] == (
        f"the picture in row 4, column 'images', of '{tmp_path / 'rows.parquet'}' cannot be read: "
        "it is no picture of a known kind; replace it or remove the row"
    )


def test_a_cold_start_makes_a_model_that_loads_and_is_measured_blind(tmp_path):
    recipe = load_warmstart_recipe("vision-base", ["steps=2", "training.batch=4"])
    warmstart(recipe, build_worked_task(recipe.task), tmp_path / "model")
    result = CliRunner().invoke(
        app,
        [
            *("eval", str(tmp_path / "model"), "--task", "geometry", "--prompts", "12"),
            *("--samples", "2", "rollout.max_new_tokens=8", "task.blank_images=true"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert "geometry, blind" in result.output
    assert re.search(r"Chance, the best constant answer to each question: \d+\.\d %", result.output)


@pytest.mark.parametrize(
    ("kind", "task", "cure"),
    [("llama", "geometry", "set it to idefics3"), ("idefics3", "countdown", "set it to llama")],
)
def test_a_cold_start_of_the_wrong_kind_is_refused(tmp_path, kind, task, cure):
    recipe = load_warmstart_recipe("vision-base", [f"model.kind={kind}", f"task={task}"])
    with pytest.raises(SettingError, match=cure):
        warmstart(recipe, build_worked_task(recipe.task), tmp_path / "model")
