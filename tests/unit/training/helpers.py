"""A learner on a tiny model, batches it can read, and a look at the gradients it applies."""

import math
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bapo.config import ObjectiveSettings, TrainingSettings
from bapo.training import Learner
from bapo.types import BatchEntry, Group, Source, TrainBatch
from tests.builders import make_completion, make_rollout, make_verdicts
from tests.rollout_models import tiny_model

VOCABULARY = 28


def make_learner(
    model=None,
    *,
    objective=None,
    steps=10,
    sampler_tolerance=math.inf,
    accelerator=None,
    **training,
):
    """A learner with one update a step, no weight decay and no clipping unless told otherwise."""
    values = {
        "learning_rate": 1e-2,
        "updates_per_step": 1,
        "weight_decay": 0.0,
        "max_grad_norm": 1e9,
        **training,
    }
    return Learner(
        tiny_model() if model is None else model,
        pad_token_id=0,
        objective=ObjectiveSettings(**(objective or {})),
        training=TrainingSettings(**values),
        steps=steps,
        sampler_tolerance=sampler_tolerance,
        accelerator=accelerator or Accelerator(cpu=True),
    )


def ragged_group(name, pattern, *, seed, version=0, temperature=1.0, longest=7):
    """A group of random tokens, prompts and completions of different lengths, logps not yet set."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, len(pattern))
    completions = [make_completion(generator.integers(2, VOCABULARY, n).tolist()) for n in lengths]
    rollout = make_rollout(
        name,
        version=version,
        temperature=temperature,
        prompt_token_ids=generator.integers(2, VOCABULARY, generator.integers(1, 5)).tolist(),
        completions=completions,
    )
    return Group(rollout, make_verdicts(pattern))


def batch_of(*groups, step=1, source=Source.FRESH):
    return TrainBatch(step, tuple(BatchEntry(group, source) for group in groups))


def plain_logps(model, prompt, completion, temperature=1.0):
    """`(T,)` log-probabilities of one row by itself: no padding, no cache, all logits."""
    token_ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=token_ids, use_cache=False).logits[0].double() / temperature
    logps = torch.log_softmax(logits, dim=-1)
    start = len(prompt) - 1
    return (
        logps[start : start + len(completion)]
        .gather(-1, token_ids[0, len(prompt) :, None])[:, 0]
        .numpy()
    )


def sampled_by(model, group, *, shift=0.0):
    """The group with the log-probabilities that the model really gives, moved by `shift`."""
    rollout = group.rollout
    completions = [
        make_completion(
            one.token_ids.tolist(),
            logps=plain_logps(model, rollout.prompt_token_ids, one.token_ids, rollout.temperature)
            + shift,
        )
        for one in rollout.completions
    ]
    remade = make_rollout(
        rollout.prompt,
        version=rollout.policy_version,
        step=rollout.step,
        temperature=rollout.temperature,
        prompt_token_ids=rollout.prompt_token_ids.tolist(),
        completions=completions,
    )
    return Group(remade, group.verdicts)


def example_batch(model, *, count=3, step=1, version=None, shift=0.0):
    """Some ragged groups that the model sampled, by default the weights at the step's start."""
    version = step - 1 if version is None else version
    patterns = ["1000", "1100", "0111", "0101", "0010"]
    groups = [
        ragged_group(f"p{index}", patterns[index % 5], seed=index, version=version)
        for index in range(count)
    ]
    return batch_of(*(sampled_by(model, group, shift=shift) for group in groups), step=step)


@contextmanager
def applied_gradients():
    """Collects, for each optimizer step in the block, a copy of every gradient it is given."""
    found = []

    def keep(optimizer, _args, _kwargs):
        found.append(
            [
                parameter.grad.clone()
                for group in optimizer.param_groups
                for parameter in group["params"]
            ]
        )

    handle = register_optimizer_step_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def copied(weights):
    return {name: tensor.clone() for name, tensor in weights.items()}


def same_bits(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)
