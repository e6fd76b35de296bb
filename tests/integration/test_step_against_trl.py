"""With buffers off, v = 1 and no filter, a step is GRPO: our whole path against TRL's own trainer.

Completions are sampled by the engine, composed into a batch by adaptation and learned from by the
learner; TRL's real `compute_loss` gets the same tokens, advantages and log-probabilities. What is
compared is the gradient that the learner's optimizer is given, in every parameter.
"""

import copy

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from bapo.adaptation import Adaptation
from bapo.config import PRESETS, AdaptationSettings, ObjectiveSettings
from bapo.objective import group_advantages
from bapo.types import Completion, Group, Rollout
from tests.builders import make_prompt, make_verdicts
from tests.rollout_models import character_tokenizer, tiny_engine, tiny_policy
from tests.unit.training.helpers import applied_gradients, make_learner

PROMPTS = {"1+2=": "1000", "(3*4)/5-6=": "1101", "7": "0000", "8-9\n": "0011"}


@pytest.fixture
def policy():
    return tiny_policy()


def make_trainer(model, folder, **settings):
    """A GRPOTrainer around its own copy of the model; TRL patches the forward that it gets."""
    trainer = GRPOTrainer(
        model=copy.deepcopy(model),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(folder),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=4,
            num_generations=4,
            epsilon=0.2,
            epsilon_high=0.2,
            beta=0.0,
            **settings,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=character_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def moved(rollout, generator, noise):
    """The rollout with its stored log-probabilities moved, so that ratios are not all 1."""
    completions = tuple(
        Completion(
            one.token_ids,
            one.behavior_logps + noise * generator.standard_normal(len(one.token_ids), np.float32),
            one.loss_mask,
            one.finish_reason,
            one.text,
        )
        for one in rollout.completions
    )
    return Rollout(
        rollout.prompt,
        rollout.prompt_token_ids,
        completions,
        rollout.policy_version,
        rollout.step,
        rollout.temperature,
    )


def sampled_groups(policy, temperature, noise):
    """Four groups of four, of prompts and completions of many lengths."""
    prompts = [make_prompt(text) for text in PROMPTS]
    rollouts = tiny_engine(policy).sample(
        prompts, version=0, group_size=4, step=1, seed=5, temperature=temperature
    )
    generator = np.random.default_rng(2)
    return [
        Group(moved(rollout, generator, noise), make_verdicts(pattern))
        for rollout, pattern in zip(rollouts, PROMPTS.values(), strict=True)
    ]


def padded(rows, *, left, dtype=torch.long):
    """Values and mask `(N, T)`, padded with zeros on one side."""
    width = max(len(row) for row in rows)
    values = torch.zeros((len(rows), width), dtype=dtype)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        values[index, span] = torch.as_tensor(row, dtype=dtype)
        mask[index, span] = 1
    return values, mask


def trl_batch(groups):
    """The groups as TRL's loss reads them."""
    completions = [one for group in groups for one in group.rollout.completions]
    prompt_rows = [group.rollout.prompt_token_ids for group in groups for _ in group.verdicts]
    prompt_ids, prompt_mask = padded(prompt_rows, left=True)
    completion_ids, completion_mask = padded([one.token_ids for one in completions], left=False)
    stored = [one.behavior_logps for one in completions]
    scores = torch.tensor([[verdict.score for verdict in group.verdicts] for group in groups])
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": group_advantages(scores, scale=True, epsilon=1e-6).flatten(),
        "old_per_token_logps": padded(stored, left=False, dtype=torch.float32)[0],
        "num_items_in_batch": completion_mask.sum(),
    }


@pytest.mark.parametrize(
    ("aggregation", "loss_type"), [("token_mean", "dapo"), ("sequence_mean", "grpo")]
)
@pytest.mark.parametrize(("temperature", "noise"), [(1.0, 0.0), (0.8, 0.4)])
@pytest.mark.parametrize("micro_batch_tokens", [10_000, 40])
def test_a_grpo_step_applies_trls_gradient(
    policy, tmp_path, aggregation, loss_type, temperature, noise, micro_batch_tokens
):
    groups = sampled_groups(policy, temperature, noise)
    preset = PRESETS["grpo"]
    adaptation = Adaptation(AdaptationSettings(**preset["adaptation"]), batch_groups=4, seed=0)
    composition = adaptation.compose(1, groups, [])
    assert [entry.group for entry in composition.batch.entries] == groups

    trainer = make_trainer(policy.model, tmp_path, loss_type=loss_type, temperature=temperature)
    expected_loss = trainer.compute_loss(trainer.model, trl_batch(groups))
    expected_loss.backward()
    expected = {name: parameter.grad for name, parameter in trainer.model.named_parameters()}

    learner = make_learner(
        policy.model,
        objective={**preset["objective"], "aggregation": aggregation},
        micro_batch_tokens=micro_batch_tokens,
    )
    with applied_gradients() as found:
        report = learner.update(composition.batch)
    assert report.loss == pytest.approx(expected_loss.item(), abs=1e-5)
    assert list(learner.weights) == list(expected)
    for name, ours in zip(expected, found[0], strict=True):
        torch.testing.assert_close(ours, expected[name], atol=1e-5, rtol=1e-5, msg=name)
    assert max(gradient.abs().max() for gradient in found[0]) > 1e-2
    assert ObjectiveSettings(**preset["objective"]).clip_high == 0.2
    clipped = report.objective["ratio_clipped_share"]
    assert clipped > 0.1 if noise else clipped == 0
