"""A step is taken back as far as is needed, and the gate lets no far group into a batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bapo.config import ObjectiveSettings
from bapo.training.batching import rows_of_entry
from bapo.training.bounds import EntryRows
from bapo.training.trust_region import HeldStep, UpdateLength
from bapo.types import BatchEntry, Source
from tests.builders import make_group
from tests.enumerable import exact_recipe, table_run
from tests.unit.training.helpers import copied, example_batch, make_learner, same_bits


def one_group(*, version=1, drift=0.0):
    """A group of three steps ago or of pi_t, which alpha gives `drift` more log-probability."""
    entry = BatchEntry(make_group("a", "1000", version=version), Source.FRESH)
    rows = rows_of_entry(entry, 2, ObjectiveSettings())
    for row in rows:
        row.proximal_logps = less_likely(row.behavior_logps, drift)
    return EntryRows(entry, rows)


def less_likely(logps, weight):
    """Log-probabilities of a policy under which the completion is exp(-weight) times as likely."""
    first = np.zeros(len(logps), dtype=np.float32)
    first[0] = weight
    return logps - first


def held_step(group, weight, *, radius=0.2, length=None):
    """A step of a policy that makes every completion exp(-weight) times as likely as at 0.

    TV(pi, pi_t) is then 1 - exp(-weight), where the group is pi_t's own.
    """
    tried = []

    def logps(rows):
        tried.append(weight.item())
        return [less_likely(row.proximal_logps, weight.item()) for row in rows]

    settings = ObjectiveSettings(enforce_bound=True, trust_region=radius)
    return HeldStep({"w": weight}, [group], logps, length or UpdateLength(), settings), tried


@pytest.mark.parametrize(
    ("length", "share"),
    [
        (0.1, 1.0),  # TV 0.095
        (0.4, 0.5),  # 0.33, then 0.181
        (0.8, 0.25),
        (1000.0, 0.0),  # 1000 / 64 is still too far
        (math.nan, 0.0),
    ],
)
def test_an_update_is_halved_until_it_ends_in_the_region(length, share):
    weight, group = torch.tensor([0.0]), one_group()
    held, _ = held_step(group, weight)
    weight += length
    held.hold()
    held.settle()
    assert held.scale == share
    kept = share * length if share else 0.0
    assert weight.item() == pytest.approx(kept)
    for row in group.rows:
        expected = less_likely(row.proximal_logps, kept)
        assert row.policy_logps == pytest.approx(expected, abs=1e-6)


def test_an_update_that_is_given_up_leaves_the_weights_to_the_bit():
    weight = torch.tensor([0.1])
    before = weight.clone()
    held, _ = held_step(one_group(), weight)
    weight += 1000.0
    held.hold()
    assert torch.equal(weight, before)


def test_the_second_update_is_held_from_where_the_first_one_ended():
    """Each moves the policy by 0.125; the first alone is in the region, both are not."""
    weight, group = torch.tensor([0.0]), one_group()
    held, _ = held_step(group, weight)
    for expected in (0.125, 0.1875):  # TV 0.118, then 0.221 and at half of the way 0.171
        weight += 0.125
        held.hold()
        assert weight.item() == pytest.approx(expected)
    assert held.scale == 0.75
    assert not held.is_held_by_age  # alpha is pi_t itself: it is the update that is too long


def test_the_length_that_was_kept_is_tried_first_and_doubled_after_each_success():
    length = UpdateLength()
    lengths = []
    for _ in range(4):
        weight = torch.tensor([0.0])
        held, tried = held_step(one_group(), weight, length=length)
        weight += 0.8
        held.hold()
        lengths.append([round(one / 0.8, 6) for one in tried])
    assert lengths == [[1.0, 0.5, 0.25], [0.25], [0.5, 0.25], [0.25]]


def test_an_update_that_was_given_up_is_tried_at_the_shortest_length_next():
    length = UpdateLength()
    for far, first in [(1000.0, 1.0), (0.1, 1 / 64), (0.1, 1 / 32)]:
        weight = torch.tensor([0.0])
        held, tried = held_step(one_group(), weight, length=length)
        weight += far
        held.hold()
        assert tried[0] == pytest.approx(first * far)


def test_a_policy_that_is_far_from_alpha_already_may_move_but_not_away_from_it():
    for direction, share, by_age in [(-0.1, 1.0, False), (0.1, 0.0, True)]:
        weight, group = torch.tensor([0.0]), one_group(version=0, drift=1.0)
        held, _ = held_step(group, weight)
        weight += direction
        held.hold()
        assert held.scale == share
        assert held.is_held_by_age is by_age  # the step itself is short enough


def test_a_step_without_an_update_is_kept_whole():
    held, _ = held_step(one_group(), torch.tensor([0.0]))
    held.settle()
    assert held.scale == 1.0


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


STEERED = {"adaptive_staleness": True, "target_tv": 0.2}


def far_run(seed=5, **adaptation):
    recipe = exact_recipe(
        "bapo",
        steps=25,
        groups=6,
        training={"learning_rate": 0.3},
        adaptation={"behavior_sync_every": 10, **adaptation},
    )
    return table_run(replace(recipe, seed=seed))


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


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_adaptive_staleness_syncs_the_behavior_policy_before_it_is_due(seed):
    """Over eight seeds samples were on average 0.55 times as old, at most 0.62 times."""
    fixed, adaptive = (far_run(seed=seed, **one) for one in ({}, STEERED))
    ages = [
        [run.advance().metrics["staleness_mean"] or 0.0 for _ in range(25)]
        for run in (fixed, adaptive)
    ]
    assert max(ages[0]) > 7
    assert np.mean(ages[1]) < np.mean(ages[0]) * 2 / 3


def test_reused_groups_are_refused_before_fresh_ones(monkeypatch):
    """Every group is too far: as long as there are reused ones, only they are refused."""
    run = far_run(max_tv=0.2)
    drafts = []

    def all_far(batch):
        drafts.append([entry.source for entry in batch.entries])
        return [1.0] * len(batch.entries)

    for _ in range(5):
        run.advance()
    monkeypatch.setattr(run.loop.learner, "behavior_distances", all_far)
    metrics = run.advance().metrics
    fresh = [draft.count(Source.FRESH) for draft in drafts]
    assert Source.REUSED in drafts[0]
    refusing_fresh = next(place for place, draft in enumerate(drafts) if Source.REUSED not in draft)
    assert len(set(fresh[: refusing_fresh + 1])) == 1  # untouched until no reused one is left
    assert fresh[refusing_fresh + 1] == 0
    assert metrics["groups_refused"] == sum(
        len(draft) if place == refusing_fresh else draft.count(Source.REUSED)
        for place, draft in enumerate(drafts)
    )


def test_a_gate_that_refuses_all_fresh_groups_brings_the_next_sync_forward():
    run = far_run(max_tv=0.2, behavior_sync_every=25)
    synced = []
    for step in range(1, 26):
        record = run.advance()
        versions = {fate.policy_version for fate in record.composition.fates}
        synced.append(max(versions) == step - 1)
    assert synced[0]
    assert 2 < sum(synced) < 25


def test_a_learner_goes_on_with_the_update_length_that_it_had():
    objective = {"enforce_bound": True, "trust_region": 0.1}
    whole = make_learner(learning_rate=1e-3, objective=objective)
    first = make_learner(learning_rate=1e-3, objective=objective)
    batches = [example_batch(whole._model, count=3, step=step, version=step - 1) for step in (1, 2)]
    for learner in (whole, first):
        learner.update(batches[0])
    second = make_learner(learning_rate=1e-3, objective=objective)
    second.load_model_state(copied(first.model_state()))
    second.load_state_dict(first.state_dict())
    assert first.state_dict()["update_length"] < 1.0
    reports = [learner.update(batches[1]) for learner in (whole, second)]
    assert reports[0].step_scale == reports[1].step_scale
    assert reports[0].forward_tokens == reports[1].forward_tokens
    assert same_bits(whole.weights, second.weights)
