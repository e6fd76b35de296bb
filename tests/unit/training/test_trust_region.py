"""A step is taken back as far as is needed, and the gate lets no far group into a batch."""

import math

import numpy as np
import pytest
import torch

from bapo.config import ObjectiveSettings
from bapo.training.batching import rows_of_entry
from bapo.training.bounds import EntryRows
from bapo.training.trust_region import WeightStep, keep_in_region
from bapo.types import BatchEntry, Source
from tests.builders import make_group
from tests.enumerable import exact_recipe, table_run
from tests.unit.training.helpers import copied, example_batch, make_learner, same_bits


def one_group(*, version=0):
    entry = BatchEntry(make_group("a", "1000", version=version), Source.FRESH)
    rows = rows_of_entry(entry, 2, ObjectiveSettings())
    for row in rows:
        row.proximal_logps = row.behavior_logps
    return EntryRows(entry, rows)


def moved(weight, group):
    """Makes each completion less likely by exp(-weight): TV is 1 - exp(-weight)."""

    def score():
        for row in group.rows:
            first = np.zeros(len(row.completion), dtype=np.float32)
            first[0] = float(weight)
            row.policy_logps = row.behavior_logps - first

    return score


@pytest.mark.parametrize(
    ("length", "radius", "share"),
    [
        (0.1, 0.2, 1.0),  # TV 0.095
        (0.4, 0.2, 0.5),  # 0.33, then 0.181
        (0.8, 0.2, 0.25),
        (1000.0, 0.2, 0.0),  # 1000 / 64 is still too far
    ],
)
def test_a_step_is_halved_until_it_ends_in_the_region(length, radius, share):
    weight = torch.tensor([5.0])
    group = one_group()
    step = WeightStep({"w": weight})
    weight += length
    # The distance follows the weight's way from its start.
    found = keep_in_region(step, [group], lambda: moved(weight - 5.0, group)(), radius)
    assert found == share
    assert weight.item() == pytest.approx(5.0 + share * length)
    distance = np.mean(
        [1 - math.exp(float((row.policy_logps - row.behavior_logps).sum())) for row in group.rows]
    )
    assert distance == pytest.approx(1 - math.exp(-share * length), abs=1e-6)


def test_a_step_that_is_given_up_leaves_the_weights_to_the_bit():
    weight = torch.tensor([0.1, 1e-8])
    before = weight.clone()
    step = WeightStep({"w": weight})
    weight += 1000.0
    group = one_group()
    assert keep_in_region(step, [group], lambda: moved(50.0, group)(), 0.2) == 0.0
    assert torch.equal(weight, before)


def test_a_policy_that_is_outside_already_may_move_as_long_as_it_does_not_move_away():
    group = one_group(version=0)  # two steps old
    for row in group.rows:
        row.proximal_logps = row.behavior_logps - np.array([1.0, 0, 0], np.float32)
    for row in group.rows:
        assert not row.is_current
    weight = torch.tensor([0.0])
    step = WeightStep({"w": weight})
    weight += 1.0
    assert keep_in_region(step, [group], lambda: moved(0.9, group)(), 0.2) == 1.0
    assert keep_in_region(step, [group], lambda: moved(1.1, group)(), 0.2) == 0.0


def test_a_distance_that_is_not_a_number_keeps_nothing_of_the_step():
    weight = torch.tensor([0.0])
    step = WeightStep({"w": weight})
    weight += 1.0
    group = one_group()
    assert keep_in_region(step, [group], lambda: moved(math.nan, group)(), 0.2) == 0.0
    assert weight.item() == 0.0


def test_without_a_batch_there_is_nothing_to_take_back():
    assert keep_in_region(WeightStep({}), [], lambda: None, 0.2) == 1.0


def test_the_learner_ends_a_far_step_in_the_region_and_says_so():
    reports, weights = [], []
    for enforced in (False, True):
        objective = {"enforce_bound": enforced, "trust_region": 0.1, "bound_after_update": True}
        learner = make_learner(learning_rate=1e-3, updates_per_step=2, objective=objective)
        reports.append(learner.update(example_batch(learner._model, count=3)))
        weights.append(copied(learner.weights))
    free, held = reports
    assert free.bound["tv_policy"] > 0.2
    assert free.step_scale == 1.0
    assert 0 < held.bound["tv_policy"] <= 0.1
    assert 0 < held.step_scale < 1
    assert held.forward_tokens > free.forward_tokens


def test_a_short_step_is_the_same_with_and_without_the_region():
    weights = []
    for enforced in (False, True):
        objective = {"enforce_bound": enforced, "trust_region": 0.5}
        learner = make_learner(learning_rate=1e-3, objective=objective)
        report = learner.update(example_batch(learner._model, count=3))
        assert report.step_scale == 1.0
        weights.append(copied(learner.weights))
    assert same_bits(*weights)


def test_distances_asked_for_before_the_update_are_not_computed_again():
    learner = make_learner()
    batch = example_batch(learner._model, count=2, step=3, version=1, shift=-0.5)
    far = example_batch(learner._model, count=3, step=3, version=1, shift=-0.5).entries[2:]
    asked = learner.behavior_distances(batch)
    assert asked == [0.0, 0.0]  # every completion is likelier now
    refused = learner.behavior_distances(type(batch)(3, far))
    report = learner.update(batch)
    tokens = [
        sum(
            len(entry.group.rollout.prompt_token_ids) + len(one.token_ids)
            for entry in entries
            for one in entry.group.rollout.completions
        )
        for entries in (batch.entries, far)
    ]
    assert len(refused) == 1
    assert report.forward_tokens == sum(tokens)  # each once, the refused one included
    plain = make_learner()
    other = plain.update(example_batch(plain._model, count=2, step=3, version=1, shift=-0.5))
    assert same_bits(learner.weights, plain.weights)
    assert other.forward_tokens == tokens[0]


def far_run(**adaptation):
    recipe = exact_recipe(
        "bapo",
        steps=25,
        groups=6,
        training={"learning_rate": 0.3},
        adaptation={"behavior_sync_every": 10, **adaptation},
    )
    return table_run(recipe)


def test_the_gate_lets_no_group_into_a_batch_that_is_further_than_the_limit():
    refused = 0
    run = far_run(max_tv=0.2)
    for _ in range(25):
        metrics = run.advance().metrics
        refused += metrics["groups_refused"]
        assert metrics["tv_behavior"] is None or metrics["tv_behavior"] <= 0.2
    assert refused > 20


def test_without_a_limit_far_groups_enter_and_none_is_refused():
    run = far_run()
    metrics = [run.advance().metrics for _ in range(25)]
    assert max(line["tv_behavior"] or 0 for line in metrics) > 0.4
    assert not any(line["groups_refused"] for line in metrics)


def test_adaptive_staleness_syncs_the_behavior_policy_before_it_is_due():
    fixed, adaptive = far_run(), far_run(adaptive_staleness=True, target_tv=0.2)
    ages = [
        [run.advance().metrics["staleness_mean"] or 0.0 for _ in range(25)]
        for run in (fixed, adaptive)
    ]
    assert max(ages[0]) > 7
    assert np.mean(ages[1]) < np.mean(ages[0]) / 2
