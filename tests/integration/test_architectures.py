"""Each supported family, random and tiny, from a saved folder through a run and a resumed one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from bapo.training import train
from tests.resumable_runs import (
    DiedError,
    DyingProgress,
    assert_same_run,
    make_ingredients,
    recipe_of,
)
from tests.rollout_models import save_policy, tiny_model

STEPS = 2
SHORT = (
    f"steps={STEPS}",
    "training.checkpoint_every=1",
    "evaluation.every=0",
    "evaluation.training_prompts=0",
    "reward.workers=1",
)


@pytest.mark.parametrize(
    ("architecture", "changes", "settings"),
    [
        ("llama", {}, ()),
        ("qwen2", {"tie_word_embeddings": True}, ()),
        ("qwen3", {}, ()),
        ("gemma2", {}, ()),
        ("gemma3_text", {}, ()),
        ("phi", {}, ()),
        ("phi3", {}, ()),
        ("qwen2", {"tie_word_embeddings": True}, ("adapter.rank=2",)),
        ("gemma3_text", {}, ("adapter.rank=2",)),
        ("phi3", {}, ("adapter.rank=2",)),
    ],
)
def test_a_step_changes_the_weights_and_a_checkpoint_resumes_bit_for_bit(
    tmp_path, architecture, changes, settings
):
    make_ingredients(tmp_path)
    shutil.rmtree(tmp_path / "base")
    save_policy(tmp_path / "base", tiny_model(architecture, **changes))
    recipe = recipe_of(tmp_path, *SHORT, *settings)
    file = "adapter_model.safetensors" if settings else "model.safetensors"

    train(recipe, tmp_path / "whole")

    after = load_file(tmp_path / "whole" / "model" / file)
    if settings:
        moved = [name for name, value in after.items() if "lora_B" in name and value.any()]
        assert len(moved) == len(after) / 2
    else:
        before = load_file(tmp_path / "base" / file)
        assert before.keys() == after.keys()
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert len(moved) > 0.9 * len(before)

    with pytest.raises(DiedError):
        train(recipe, tmp_path / "run", progress=DyingProgress(1))
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole", STEPS)
