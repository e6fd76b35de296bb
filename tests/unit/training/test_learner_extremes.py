"""Numbers at the edge, through the real learner: finite and applied, or skipped to the bit."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from bapo.training import learner as module
from bapo.types import FinishReason, Group
from tests.builders import make_completion, make_verdicts
from tests.rollout_models import tiny_model
from tests.unit.training.helpers import (
    batch_of,
    copied,
    example_batch,
    make_learner,
    ragged_group,
    same_bits,
    sampled_by,
)


def stale_batch(model, shift):
    """Groups of older weights, whose stored log-probabilities lie `shift` from the model's."""
    return example_batch(model, count=2, step=2, version=0, shift=shift)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("shift", "weight", "truncated"),
    [(-1000.0, 3.0, 1.0), (1000.0, np.exp(-20.0), 0.0), (-np.inf, 3.0, 1.0)],
)
def test_log_ratios_of_a_thousand_and_more_give_a_finite_update(shift, weight, truncated, beta):
    """Tokens that alpha found impossible weigh w_max; impossible under pi_t, next to nothing."""
    model = tiny_model()
    learner = make_learner(model, objective={"kl_coefficient": beta})
    report = learner.update(stale_batch(model, shift))
    assert (report.updates, report.nonfinite) == (1, 0)
    assert np.isfinite([report.loss, report.grad_norm]).all()
    assert report.objective["importance_weight_mean"] == pytest.approx(weight, rel=1e-4)
    assert report.objective["importance_weight_truncated_share"] == truncated
    assert all(torch.isfinite(tensor).all() for tensor in learner.weights.values())


def same_moments(learner, expected) -> bool:
    """Whether two learners' optimizers have the same state, to the bit."""
    first, second = learner.state_dict()["state"], expected.state_dict()["state"]
    return first.keys() == second.keys() and all(
        torch.equal(first[index][name], second[index][name])
        for index in second
        for name in second[index]
    )


def test_groups_whose_tokens_are_all_masked_change_nothing_and_are_no_failure():
    model = tiny_model()
    group = sampled_by(model, ragged_group("p", "1100", seed=1))
    for one in group.rollout.completions:
        one.loss_mask[:] = False
    learner = make_learner(model)
    before = copied(learner.weights)
    report = learner.update(batch_of(group))
    assert (report.updates, report.empty, report.nonfinite, report.loss) == (0, 1, 0, None)
    assert same_bits(learner.weights, before)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_mini_batch_of_truncated_completions_alone_moves_neither_weights_nor_optimizer(beta):
    """AdamW would decay both; the other mini-batch of the step is learned from as it should be."""
    learner, expected = (
        make_learner(
            objective={"mask_truncated": True, "kl_coefficient": beta},
            weight_decay=0.1,
            updates_per_step=updates,
        )
        for updates in (2, 1)
    )
    whole = [entry.group for entry in example_batch(tiny_model(), count=4).entries]
    cut = [whole[0], truncated(whole[1]), whole[2], truncated(whole[3])]
    report = learner.update(batch_of(*cut))
    assert (report.updates, report.empty, report.nonfinite) == (1, 1, 0)
    assert report.groups_skipped == (1, 3)
    alone = expected.update(batch_of(whole[0], whole[2]))
    assert (report.loss, report.grad_norm) == (alone.loss, alone.grad_norm)
    report = learner.update(batch_of(*map(truncated, whole), step=2))
    assert (report.updates, report.empty, report.groups_skipped) == (0, 2, (0, 2, 1, 3))
    assert (report.loss, report.grad_norm) == (None, None)
    assert same_bits(learner.weights, expected.weights)
    assert same_moments(learner, expected)


def test_a_mini_batch_without_any_advantage_is_an_optimizer_update_without_gradient():
    """As in GRPO without a filter: the gradient is 0, and the moments move the weights on."""
    learner = make_learner(weight_decay=0.1)
    learner.update(example_batch(tiny_model(), count=2))
    before = copied(learner.weights)
    equal = [
        Group(entry.group.rollout, make_verdicts("0000"))
        for entry in example_batch(tiny_model(), count=2).entries
    ]
    report = learner.update(batch_of(*equal, step=2))
    assert (report.updates, report.empty, report.groups_skipped) == (1, 0, ())
    assert (report.loss, report.grad_norm) == (0.0, 0.0)
    assert not same_bits(learner.weights, before)


def truncated(group):
    """The group, had every completion of it been cut off."""
    completions = tuple(
        dataclasses.replace(one, finish_reason=FinishReason.LENGTH)
        for one in group.rollout.completions
    )
    return Group(dataclasses.replace(group.rollout, completions=completions), group.verdicts)


def test_rows_that_are_all_masked_count_for_nothing_beside_others():
    """What stands in them, another text of another length, changes no bit of the update."""
    updates = []
    for last in ([3, 4, 5], [9]):
        model = tiny_model()
        group = ragged_group("p", "1010", seed=1)
        completions = [*group.rollout.completions[:3], make_completion(last)]
        rollout = dataclasses.replace(group.rollout, completions=tuple(completions))
        group = sampled_by(model, Group(rollout, group.verdicts))
        group.rollout.completions[3].loss_mask[:] = False
        # A row at a time: the same shapes.
        learner = make_learner(model, micro_batch_tokens=16, share_prompts=False)
        assert learner.update(batch_of(group)).updates == 1
        updates.append(copied(learner.weights))
    assert same_bits(*updates)
    assert not same_bits(updates[0], dict(tiny_model().named_parameters()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_skipped_and_its_groups_are_named(monkeypatch, value):
    """The loss of the second of two updates; groups are dealt in turn, so it has 1 and 3."""
    calls = []
    policy_loss = module.policy_loss

    def poisoned_loss(inputs, settings, normaliser):
        output = policy_loss(inputs, settings, normaliser)
        calls.append(output)
        if len(calls) == 1:
            return output
        return type(output)(loss=output.loss * value, sums=output.sums)

    monkeypatch.setattr(module, "policy_loss", poisoned_loss)
    batch = example_batch(tiny_model(), count=4)
    only_first = batch_of(batch.entries[0].group, batch.entries[2].group)
    learner, expected = make_learner(updates_per_step=2), make_learner()
    report = learner.update(batch)
    assert (report.updates, report.nonfinite, report.groups_skipped) == (1, 1, (1, 3))
    monkeypatch.undo()
    expected.update(only_first)
    assert same_bits(learner.weights, expected.weights)
    assert same_moments(learner, expected)


def test_the_optimizer_is_untouched_by_a_first_update_that_is_skipped():
    """Before any update AdamW has no state at all, and must not get one."""
    batch = example_batch(tiny_model(), count=1)
    batch.entries[0].group.rollout.completions[0].behavior_logps[0] = np.nan
    learner = make_learner()
    before = copy.deepcopy(learner.state_dict())
    report = learner.update(batch)
    assert (report.nonfinite, report.groups_skipped) == (1, (0,))
    assert learner.state_dict() == before
