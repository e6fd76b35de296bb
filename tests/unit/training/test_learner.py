import copy

import numpy as np
import pytest
import torch

from bapo.errors import StaleEngineError
from bapo.training.batching import Row
from tests.rollout_models import tiny_model
from tests.unit.training.helpers import (
    applied_gradients,
    batch_of,
    copied,
    example_batch,
    make_learner,
    plain_logps,
    ragged_group,
    same_bits,
    sampled_by,
)


def gradients(batch, model=None, **settings):
    """The gradients that one update applies, the learner's report beside them."""
    learner = make_learner(tiny_model() if model is None else model, **settings)
    with applied_gradients() as found:
        report = learner.update(batch)
    return found, report


def assert_close(first, second, tolerance):
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    assert max(one.abs().max() for one in first) > 1e-3


def rows_of(batch):
    return [
        Row(
            group.rollout.prompt_token_ids,
            one.token_ids,
            one.behavior_logps,
            one.loss_mask,
            0.0,
            group.rollout.temperature,
            False,
        )
        for group in (entry.group for entry in batch.entries)
        for one in group.rollout.completions
    ]


def test_an_update_changes_every_weight_and_reports_itself():
    learner = make_learner()
    before = copied(learner.weights)
    batch = example_batch(tiny_model(), count=2)
    report = learner.update(batch)
    for name, tensor in learner.weights.items():
        assert not torch.equal(tensor, before[name]), name
    assert (report.updates, report.nonfinite, report.learning_rate) == (1, 0, 1e-2)
    rollouts = [entry.group.rollout for entry in batch.entries]
    tokens = sum(
        len(rollout.prompt_token_ids) + len(one.token_ids)
        for rollout in rollouts
        for one in rollout.completions
    )
    assert (report.backward_tokens, report.forward_tokens) == (tokens, 0)
    assert report.grad_norm > 0
    assert 0 < report.objective["entropy"] < np.log(28)


def test_learning_makes_right_completions_likelier_and_wrong_ones_less_likely():
    learner = make_learner(learning_rate=1e-3)
    batch = example_batch(tiny_model(), count=3)
    before = [values.sum() for values in learner.logps(rows_of(batch))]
    learner.update(batch)
    after = [values.sum() for values in learner.logps(rows_of(batch))]
    right = [v.correct for entry in batch.entries for v in entry.group.verdicts]
    gains = np.array(after) - np.array(before)
    assert gains[right].mean() > 0.01 > -0.01 > gains[~np.array(right)].mean()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_in_padded_batches_are_those_of_each_row_by_itself(temperature):
    """Through `logits_to_keep` and right padding, against one whole forward pass a row."""
    model = tiny_model()
    groups = [ragged_group(f"p{i}", "10" * 3, seed=i, temperature=temperature) for i in range(3)]
    rows = rows_of(batch_of(*groups))
    expected = [plain_logps(model, row.prompt, row.completion, temperature) for row in rows]
    for budget in (16, 60, 10_000):
        found = make_learner(model, micro_batch_tokens=budget).logps(rows)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_the_size_of_micro_batches_does_not_change_the_update(aggregation):
    batch = example_batch(tiny_model(), count=4, version=-3, shift=0.2)
    objective = {"aggregation": aggregation, "kl_coefficient": 0.1}
    (whole,), report = gradients(batch, objective=objective)
    for budget in (16, 50):
        (cut,), cut_report = gradients(batch, objective=objective, micro_batch_tokens=budget)
        assert_close(cut, whole, 1e-6)
        assert cut_report.loss == pytest.approx(report.loss, abs=1e-6)
        assert cut_report.objective == pytest.approx(report.objective, abs=1e-5)


def test_a_group_of_the_current_weights_has_weight_one_and_gives_the_loss_of_recomputing():
    """The same group, called fresh and called stale: log-probabilities taken over, or computed."""
    model = tiny_model()
    groups = [sampled_by(model, ragged_group(f"p{i}", "1000", seed=i, version=4)) for i in (1, 2)]
    (taken,), current = gradients(batch_of(*groups, step=5))
    (computed,), stale = gradients(batch_of(*groups, step=6))
    assert_close(taken, computed, 1e-5)
    assert current.loss == pytest.approx(stale.loss, abs=1e-6)
    assert current.objective["importance_weight_mean"] == 1.0
    assert stale.objective["importance_weight_mean"] == pytest.approx(1.0, abs=1e-5)
    assert (current.forward_tokens, stale.forward_tokens) == (0, stale.backward_tokens)


@pytest.mark.parametrize(
    ("ratio", "weight", "truncated"), [(0.5, 0.5, 0.0), (2.0, 2.0, 0.0), (4.0, 3.0, 1.0)]
)
def test_a_stale_group_is_weighted_by_proximal_over_behavior_up_to_the_cap(
    ratio, weight, truncated
):
    """All weights are the same, so the gradient is that of the fresh group times the weight."""
    model = tiny_model()
    group = ragged_group("p", "1100", seed=1)
    fresh, _ = gradients(batch_of(sampled_by(model, group)))
    older = sampled_by(model, group, shift=-np.log(ratio))
    stale, report = gradients(batch_of(older, step=2))
    assert_close(stale[0], [weight * one for one in fresh[0]], 1e-5)
    assert report.objective["importance_weight_mean"] == pytest.approx(weight, abs=1e-5)
    assert report.objective["importance_weight_truncated_share"] == truncated


def test_a_current_group_is_clipped_around_what_sampled_it_and_not_weighted():
    """Behavior twice as sure as the weights: ratio 1/2, clipped where the advantage is negative."""
    model = tiny_model()
    group = sampled_by(model, ragged_group("p", "1100", seed=1), shift=np.log(2.0))
    _, report = gradients(batch_of(group, step=1))
    tokens = [len(one.token_ids) for one in group.rollout.completions]
    assert report.objective["importance_weight_mean"] == 1.0
    assert report.objective["ratio_clipped_share"] == pytest.approx(sum(tokens[2:]) / sum(tokens))


def test_all_updates_of_a_step_keep_the_policy_at_its_start_as_proximal():
    """Two halves of the batch are the same two groups. With a huge learning rate the second update
    finds the policy far from the start of the step, and clips; the first one cannot."""
    model = tiny_model()
    pair = [sampled_by(model, ragged_group(f"p{i}", "1100", seed=i)) for i in (1, 2)]
    batch = batch_of(pair[0], pair[0], pair[1], pair[1])
    _, one = gradients(batch, copy.deepcopy(model), learning_rate=0.05)
    (first, second), two = gradients(
        batch, copy.deepcopy(model), learning_rate=0.05, updates_per_step=2
    )
    assert (one.updates, two.updates) == (1, 2)
    assert one.objective["ratio_clipped_share"] == 0.0
    assert two.objective["ratio_clipped_share"] > 0.1
    assert two.objective["importance_weight_mean"] == 1.0
    assert max((a - b).abs().max() for a, b in zip(first, second, strict=True)) > 1e-3


def test_the_loss_of_an_on_policy_step_is_minus_the_mean_advantage_over_tokens():
    """Advantages 1 and -1 (half right, unscaled would be 1/2), one completion twice as long."""
    model = tiny_model()
    group = sampled_by(model, ragged_group("p", "1100", seed=1))
    tokens = np.array([len(one.token_ids) for one in group.rollout.completions])
    _, report = gradients(batch_of(group))
    expected = -(tokens[:2].sum() - tokens[2:].sum()) / tokens.sum()
    assert report.loss == pytest.approx(expected, abs=1e-5)
    _, report = gradients(batch_of(group), objective={"aggregation": "sequence_mean"})
    assert report.loss == pytest.approx(0.0, abs=1e-5)


def test_gradients_are_clipped_to_the_norm_and_reported_as_they_were():
    batch = example_batch(tiny_model())
    (free,), report = gradients(batch)
    (clipped,), clipped_report = gradients(batch, max_grad_norm=0.5)
    norm = torch.cat([one.flatten() for one in free]).norm().item()
    assert norm > 0.6
    assert clipped_report.grad_norm == pytest.approx(norm, rel=1e-5)
    assert report.grad_norm == pytest.approx(norm, rel=1e-5)
    assert_close(clipped, [one * 0.5 / norm for one in free], 1e-5)


def test_an_empty_batch_changes_nothing():
    learner = make_learner()
    learner.update(example_batch(tiny_model()))
    before, optimizer = copied(learner.weights), copy.deepcopy(learner.state_dict())
    report = learner.update(batch_of(step=2))
    assert same_bits(learner.weights, before)
    assert_same_optimizer(learner.state_dict(), optimizer)
    assert (report.updates, report.nonfinite, report.loss, report.grad_norm) == (0, 0, None, None)
    assert set(report.objective.values()) == {None}
    assert report.learning_rate == 1e-2


def assert_same_optimizer(first, second):
    assert first["state"].keys() == second["state"].keys()
    for index, state in first["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["state"][index][name]), (index, name)


def poison_current(batch):
    """A current group whose stored log-probabilities hold a NaN."""
    batch.entries[0].group.rollout.completions[1].behavior_logps[0] = np.nan
    return lambda model: None


def poison_gradient(batch):
    """A finite loss, and a gradient that is not: at one weight only."""

    def poison(model):
        def spoil(gradient):
            spoiled = gradient.clone()
            spoiled.view(-1)[0] = torch.nan
            return spoiled

        model.model.norm.weight.register_hook(spoil)

    return poison


def poison_gradient_with_infinity(batch):
    def poison(model):
        model.model.norm.weight.register_hook(lambda gradient: gradient * torch.inf)

    return poison


def poison_weight(batch):
    """A weight that is NaN makes the scores NaN; it stays what it is, and nothing else changes."""

    def poison(model):
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan

    return poison


@pytest.mark.parametrize(
    "poisoned",
    [poison_current, poison_gradient, poison_gradient_with_infinity, poison_weight],
)
def test_an_update_that_is_not_finite_is_not_applied_at_all(poisoned):
    model = tiny_model()
    learner = make_learner(model)
    learner.update(example_batch(tiny_model()))
    batch = example_batch(tiny_model(), step=2)
    poisoned(batch)(model)
    before, optimizer = copied(learner.weights), copy.deepcopy(learner.state_dict())
    report = learner.update(batch)
    assert (report.updates, report.nonfinite) == (0, 1)
    assert (report.loss, report.grad_norm) == (None, None)
    assert all(value is None for value in report.objective.values())
    for name, tensor in learner.weights.items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    assert_same_optimizer(learner.state_dict(), optimizer)


def test_a_stale_group_with_a_nan_is_not_applied_either():
    batch = example_batch(tiny_model(), count=1, step=2, version=0)
    poison_current(batch)
    learner = make_learner()
    before = copied(learner.weights)
    report = learner.update(batch)
    assert (report.updates, report.nonfinite) == (0, 1)
    assert same_bits(learner.weights, before)


def test_a_skipped_update_leaves_nothing_behind_for_the_next_one():
    """After a poisoned batch the learner goes on as if it had never seen it."""
    clean = [example_batch(tiny_model(), step=step, version=-1) for step in (1, 3)]
    bad = example_batch(tiny_model(), step=2)
    poison_current(bad)
    first, second = make_learner(), make_learner()
    first.update(clean[0])
    first.update(bad)
    first.update(clean[1])
    second.update(clean[0])
    second.update(clean[1])
    assert same_bits(first.weights, second.weights)


def test_of_two_updates_only_the_poisoned_one_is_skipped():
    """Groups are dealt in turn, so the first of two is the first update's."""
    batch = example_batch(tiny_model(), count=2)
    good = batch_of(batch.entries[1].group)
    poison_current(batch)
    learner, other = make_learner(updates_per_step=2), make_learner()
    report, expected = learner.update(batch), other.update(good)
    assert (report.updates, report.nonfinite) == (1, 1)
    assert report.loss == expected.loss
    assert report.objective == expected.objective
    assert same_bits(learner.weights, other.weights)


def test_a_nan_at_a_masked_token_does_no_harm():
    model = tiny_model()
    group = sampled_by(model, ragged_group("p", "1100", seed=1))
    for one in group.rollout.completions[:2]:
        one.loss_mask[-1] = False
    (expected,), _ = gradients(batch_of(group))
    for one in group.rollout.completions[:2]:
        one.behavior_logps[-1] = np.nan
    (found,), report = gradients(batch_of(group))
    assert report.nonfinite == 0
    assert_close(found, expected, 1e-7)


def test_a_group_whose_answers_all_score_the_same_has_no_gradient():
    model = tiny_model()
    (found,), report = gradients(batch_of(sampled_by(model, ragged_group("p", "0000", seed=1))))
    assert all(torch.equal(one, torch.zeros_like(one)) for one in found)
    assert (report.updates, report.loss, report.grad_norm) == (1, 0.0, 0.0)


def test_the_schedule_sets_the_learning_rate_of_each_step():
    learner = make_learner(learning_rate=8.0, warmup_steps=4, schedule="linear", steps=6)
    rates = [learner.update(batch_of(step=step)).learning_rate for step in range(1, 7)]
    assert rates == pytest.approx([2, 4, 6, 8, 8, 4])


def test_the_learning_rate_of_a_step_is_the_one_that_is_used():
    """AdamW's first step moves a weight by the learning rate, whatever the gradient's size."""
    for step, expected in [(1, 1e-3), (2, 2e-3)]:
        learner = make_learner(learning_rate=2e-3, warmup_steps=2)
        before = copied(learner.weights)
        learner.update(example_batch(tiny_model(), step=step))
        moved = max((learner.weights[name] - before[name]).abs().max() for name in before)
        assert moved.item() == pytest.approx(expected, rel=1e-3)


def test_a_restored_optimizer_continues_to_the_bit():
    first = make_learner()
    first.update(example_batch(tiny_model(), step=1))
    model = tiny_model()
    model.load_state_dict(first.weights, strict=False)
    second = make_learner(model)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert same_bits(first.weights, second.weights)
    for step in (2, 3):
        batch = example_batch(tiny_model(), step=step, version=-1)
        assert first.update(batch).loss == second.update(batch).loss
    assert same_bits(first.weights, second.weights)


def test_the_same_batch_gives_the_same_weights_to_the_bit():
    learners = [make_learner(updates_per_step=2) for _ in range(2)]
    for learner in learners:
        learner.update(example_batch(tiny_model(), count=5))
    assert same_bits(learners[0].weights, learners[1].weights)


def test_a_sampler_that_did_not_sample_from_the_weights_is_noticed_at_the_first_update():
    """Its stored log-probabilities are off by 0.01 on one token; the forward pass tells."""
    model = tiny_model()
    honest = sampled_by(model, ragged_group("a", "1001", seed=3))
    learner = make_learner(model, sampler_tolerance=1e-3)
    assert learner.update(batch_of(honest)).sampler_gap < 1e-4

    other = tiny_model()
    tampered = sampled_by(other, ragged_group("a", "1001", seed=3))
    tampered.rollout.completions[1].behavior_logps[0] -= 0.01
    strict = make_learner(other, sampler_tolerance=1e-3)
    with pytest.raises(StaleEngineError, match=r"differ by up to 0\.01 from a forward pass"):
        strict.update(batch_of(tampered))


def test_groups_of_older_weights_say_nothing_about_the_sampler():
    model = tiny_model()
    old = ragged_group("a", "1001", seed=3, version=0)
    report = make_learner(model, sampler_tolerance=1e-3).update(batch_of(old, step=2))
    assert report.sampler_gap is None
