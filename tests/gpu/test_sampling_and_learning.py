"""The sampler and the learner on a CUDA device; run with `make test-gpu`."""

import numpy as np
import pytest
import torch

from bapo.rollout import ScoreRow
from bapo.training import train
from tests.rollout_models import tiny_engine, tiny_policy
from tests.toy_task import toy_recipe, write_toy
from tests.unit.rollout.test_sampler import PROMPTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma"])
def test_log_probs_of_sampling_equal_a_full_forward_pass(architecture):
    policy = tiny_policy(architecture)
    policy.model.to("cuda")
    engine = tiny_engine(policy)
    rollouts = engine.sample(PROMPTS, version=0, group_size=8, step=1, seed=0, temperature=0.8)

    for rollout in rollouts:
        rows = [ScoreRow(rollout.prompt_token_ids, one.token_ids) for one in rollout.completions]
        scores = engine.score(rows, version=0, temperature=0.8)
        for one, score in zip(rollout.completions, scores, strict=True):
            np.testing.assert_allclose(one.behavior_logps, score, atol=1e-3)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_trains_on_the_device(tmp_path, precision):
    folder = write_toy(tmp_path)
    recipe = toy_recipe(
        folder,
        steps=40,
        model={"path": str(folder / "model"), "device": "cuda"},
        rollout={"probe_tolerance": 0.05},
        training={"mixed_precision": precision},
        evaluation={"prompts": 60},
    )
    summary = train(recipe, tmp_path / "run")
    assert summary["held_out_after"] > 0.6 > summary["held_out_before"]
