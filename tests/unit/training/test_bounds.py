"""What a training step says of its bound, on groups whose ratios are chosen by hand."""

import math

import numpy as np
import pytest

from bapo.config import ObjectiveSettings
from bapo.training.batching import mini_batches
from bapo.training.bounds import (
    BOUND_METRICS,
    behavior_distances,
    bound_metrics,
    entries_of_minis,
    policy_distances,
    stale_distances,
    step_distances,
)
from bapo.types import Source
from tests.builders import make_batch, make_group
from tests.unit.training.helpers import copied, example_batch, make_learner
from tests.unit.training.helpers import plain_logps as exact_logps


def entry_rows(*entries, step=3, updates=1):
    """The groups of each mini-batch of a batch, log-probabilities not yet set."""
    batch = make_batch(step, *entries)
    minis = mini_batches(batch, updates, ObjectiveSettings())
    return entries_of_minis(batch.entries, minis)


def set_ratios(group, *, policy, proximal):
    """Gives the first token of each completion the ratio of the whole one."""
    for row, to_policy, to_proximal in zip(group.rows, policy, proximal, strict=True):
        first = np.zeros(len(row.completion), dtype=np.float32)
        first[0] = 1.0
        row.policy_logps = row.behavior_logps + first * np.float32(math.log(to_policy))
        row.proximal_logps = row.behavior_logps + first * np.float32(math.log(to_proximal))


def test_each_source_has_its_own_bound_worked_out_by_hand():
    [[fresh, reused]] = entry_rows(
        (make_group("a", "1000", version=1), Source.FRESH),
        (make_group("b", "1100", version=0), Source.REUSED),
    )
    set_ratios(fresh, policy=(2, 0.5, 1, 1), proximal=(1, 0.75, 1, 1))
    set_ratios(reused, policy=(1, 1, 0.5, 0.5), proximal=(1, 1, 1, 1))
    found = bound_metrics([fresh, reused], [fresh, reused], cap=3.0)
    sigma = math.sqrt(3) / 4
    penalty = (1 / sigma - 1) * 0.125 + 0.0625
    assert found["bound_surrogate_fresh"] == pytest.approx(0.25 / sigma, rel=1e-6)
    assert found["bound_penalty_fresh"] == pytest.approx(penalty, rel=1e-6)
    assert found["bound_total_fresh"] == pytest.approx(0.25 / sigma - penalty, rel=1e-6)
    assert found["bound_surrogate_reused"] == 0.0
    assert found["bound_total_reused"] == pytest.approx(-0.25, rel=1e-6)  # K = 1 at sigma = 1/2
    assert found["bound_total_retried"] is None
    assert found["bound_factor_fresh"] == pytest.approx(1 / sigma - 1, rel=1e-6)
    assert found["bound_factor_reused"] == pytest.approx(1.0, rel=1e-6)
    assert found["bound_published_fresh"] == pytest.approx(0.25 / sigma - 2 * penalty, rel=1e-6)
    assert found["bound_published_reused"] == pytest.approx(-0.5, rel=1e-6)
    assert found["bound_unknown_share"] == 0.0
    assert found["tv_policy"] == pytest.approx((0.125 + 0.25) / 2, rel=1e-6)
    assert found["tv_behavior"] == pytest.approx(0.0625 / 2, rel=1e-6)
    assert list(found) == list(BOUND_METRICS)


def test_a_group_that_the_policy_has_left_altogether_is_counted_as_unknown():
    """All four completions of a count for 0.4 under pi; of b they count for 4."""
    [[left, kept]] = entry_rows(
        (make_group("a", "1000", version=1), Source.FRESH),
        (make_group("b", "1100", version=1), Source.FRESH),
    )
    set_ratios(left, policy=(0.1, 0.1, 0.1, 0.1), proximal=(1, 1, 1, 1))
    set_ratios(kept, policy=(1, 1, 1, 1), proximal=(1, 1, 1, 1))
    found = bound_metrics([left, kept], [left, kept], cap=3.0)
    assert found["bound_unknown_share"] == 0.5


def test_the_cap_cuts_the_ratio_in_the_surrogate_only():
    [[group]] = entry_rows((make_group("a", "1000", version=1), Source.FRESH))
    set_ratios(group, policy=(9, 0.5, 1, 1), proximal=(1, 1, 1, 1))
    sigma = math.sqrt(3) / 4
    found = bound_metrics([group], [group], cap=3.0)
    assert found["bound_surrogate_fresh"] == pytest.approx(0.5 / sigma, rel=1e-6)
    assert found["tv_policy"] == pytest.approx(0.125, rel=1e-6)


@pytest.mark.parametrize(
    "group",
    [
        make_group("a", "0000", version=1),
        make_group("a", "1111", version=1),
        make_group("a", "1100", version=1, scores=[1.5, 1, 0, 0]),
        make_group("a", "1100", version=1, scores=[1, 1, -1, 0]),
    ],
)
def test_a_group_without_variance_or_with_scores_outside_zero_to_one_has_no_bound(group):
    [[rows]] = entry_rows((group, Source.FRESH))
    set_ratios(rows, policy=(2, 1, 1, 0.5), proximal=(1, 1, 1, 1))
    found = bound_metrics([rows], [rows], cap=3.0)
    assert found["bound_total_fresh"] is None
    assert found["tv_policy"] == pytest.approx(0.125, rel=1e-6)


def test_a_ratio_that_is_not_finite_is_left_out_and_not_written():
    [[bad, good]] = entry_rows(
        (make_group("a", "1000", version=1), Source.FRESH),
        (make_group("b", "1000", version=1), Source.FRESH),
    )
    for group in (bad, good):
        set_ratios(group, policy=(1, 0.5, 1, 1), proximal=(1, 1, 1, 1))
    bad.rows[2].policy_logps[0] = np.nan
    both, alone = (bound_metrics([good], measured, cap=3.0) for measured in ([bad, good], [good]))
    assert (both.pop("bound_unknown_share"), alone.pop("bound_unknown_share")) == (0.5, 0.0)
    assert both == alone


def test_groups_of_different_sizes_count_alike():
    [[small, large]] = entry_rows(
        (make_group("a", "10", version=1), Source.FRESH),
        (make_group("b", "1100", version=1), Source.FRESH),
    )
    set_ratios(small, policy=(1.5, 0.5), proximal=(1, 1))
    set_ratios(large, policy=(1, 1, 1, 1), proximal=(1, 1, 1, 1))
    # sigma = 1/2 in both; the small one has L = 0.25 / 0.5, TV = 0.25.
    found = bound_metrics([small, large], [small, large], cap=3.0)
    assert found["bound_total_fresh"] == pytest.approx((0.5 - 0.25) / 2, rel=1e-6)


def test_masked_tokens_are_no_choice_of_the_policy():
    [[group]] = entry_rows((make_group("a", "1000", version=1), Source.FRESH))
    set_ratios(group, policy=(0.5, 0.5, 0.5, 0.5), proximal=(1, 1, 1, 1))
    for row in group.rows:
        row.loss_mask = np.array([False, True, True])
    assert policy_distances([group]) == [0.0]


def test_groups_of_the_current_policy_are_at_no_distance_from_it_whatever_the_engine_rounded():
    [[group]] = entry_rows((make_group("a", "1000", version=2), Source.FRESH))
    set_ratios(group, policy=(0.5, 1, 1, 1), proximal=(0.9, 0.9, 1.1, 1.1))
    assert behavior_distances([group]) == [0.0]


def test_the_dealt_groups_come_back_with_their_own_rows():
    entries = [(make_group(name, "10"), Source.FRESH) for name in "abcde"]
    dealt = entry_rows(*entries, updates=2)
    assert [[one.entry.group.prompt_id for one in mini] for mini in dealt] == [
        ["a", "c", "e"],
        ["b", "d"],
    ]
    for group in (one for mini in dealt for one in mini):
        for row, completion in zip(group.rows, group.entry.group.rollout.completions, strict=True):
            assert row.completion is completion.token_ids


def test_an_empty_batch_has_no_bound():
    assert bound_metrics([], [], cap=3.0) == dict.fromkeys(BOUND_METRICS)


def test_a_step_of_one_update_measures_the_policy_that_it_started_from():
    learner = make_learner(learning_rate=0.1)
    batch = example_batch(learner._model, count=2)
    report = learner.update(batch)
    assert report.bound["bound_total_fresh"] == pytest.approx(0.0, abs=1e-4)
    assert report.bound["tv_behavior"] == 0.0
    assert report.forward_tokens == 0


@pytest.mark.parametrize("updates", [1, 2])
def test_after_the_update_the_bound_is_that_of_the_new_weights_on_every_group(updates):
    learner = make_learner(
        learning_rate=0.05, updates_per_step=updates, objective={"bound_after_update": True}
    )
    batch = example_batch(learner._model, count=3)
    report = learner.update(batch)
    distances = []
    for entry in batch.entries:
        rollout = entry.group.rollout
        ratios = [
            exact_logps(learner._model, rollout.prompt_token_ids, one.token_ids).sum()
            - one.behavior_logps.astype(np.float64).sum()
            for one in rollout.completions
        ]
        distances.append(np.mean(np.maximum(0, 1 - np.exp(ratios))))
    assert np.mean(distances) > 0.01
    assert report.bound["tv_policy"] == pytest.approx(np.mean(distances), abs=1e-4)
    assert report.forward_tokens == sum(
        len(entry.group.rollout.prompt_token_ids) + len(one.token_ids)
        for entry in batch.entries
        for one in entry.group.rollout.completions
    )


def test_measuring_the_bound_changes_no_weight():
    states = []
    for after in (False, True):
        learner = make_learner(updates_per_step=2, objective={"bound_after_update": after})
        learner.update(example_batch(learner._model, count=3))
        states.append(copied(learner.weights))
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_the_distance_of_a_step_is_worked_out_from_completions_of_alpha():
    """The mean of max(0, pi_t / alpha - pi / alpha), pi_t / alpha cut at 3."""
    [[group]] = entry_rows((make_group("a", "1000", version=1), Source.FRESH))
    set_ratios(group, policy=(0.5, 1.0, 2.0, 3.0), proximal=(1.0, 0.5, 2.0, 6.0))
    # 1 - 0.5, nothing, nothing, and 3 of 6 with the weight 3: 3 (1 - 1/2).
    assert step_distances([group], 3.0) == pytest.approx([(0.5 + 1.5) / 4], rel=1e-6)
    assert step_distances([group], 6.0) == pytest.approx([(0.5 + 3.0) / 4], rel=1e-6)
    set_ratios(group, policy=(0.5, 1.0, 0.25, 1.0), proximal=(1.0, 1.0, 1.0, 1.0))
    assert step_distances([group], 3.0) == policy_distances([group])  # alpha is pi_t


def test_distances_of_stale_groups_are_told_apart_by_source():
    [[old, new, reused]] = entry_rows(
        (make_group("a", "1000", version=1), Source.FRESH),
        (make_group("b", "1000", version=2), Source.FRESH),
        (make_group("c", "1000", version=0), Source.REUSED),
    )
    for group, ratio in ((old, 0.75), (new, 0.5), (reused, 0.25)):
        set_ratios(group, policy=(1, 1, 1, 1), proximal=(ratio,) * 4)
    found = stale_distances([old, new, reused])
    assert found[Source.FRESH] == pytest.approx([0.25])  # pi_t's own group has no age
    assert found[Source.RETRIED] == []
    assert found[Source.REUSED] == pytest.approx([0.75])
