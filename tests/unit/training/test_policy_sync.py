import copy

import numpy as np
import pytest
import torch

from bapo.errors import StaleEngineError
from bapo.rollout import ScoreRow, probe_rows
from bapo.training.policy_sync import EnginePolicies
from tests.builders import make_batch, make_prompt
from tests.rollout_models import tiny_engine, tiny_policy
from tests.table_policy import PROBE, CountingLearner, TableEngine
from tests.unit.training.helpers import copied, example_batch, make_learner


def make_policies(sync_every, learner=None, engine=None):
    learner, engine = learner or CountingLearner(), engine or TableEngine({})
    policies = EnginePolicies(engine, learner, sync_every=sync_every, probe=PROBE, tolerance=1e-6)
    return policies, engine, learner


def held_count(engine, version):
    """How often the learner had been called when it had the weights that the engine holds."""
    return -engine.score(PROBE, version=version)[0][0]


@pytest.mark.parametrize(
    ("sync_every", "behavior"),
    [
        (1, [0, 1, 2, 3, 4, 5, 6]),
        (2, [0, 0, 2, 2, 4, 4, 6]),
        (5, [0, 0, 0, 0, 0, 5, 5]),
    ],
)
def test_the_behavior_policy_is_copied_every_v_steps_and_the_current_one_never_lags(
    sync_every, behavior
):
    """After every update; so at step t the weights were updated t - 1 times."""
    policies, engine, learner = make_policies(sync_every)
    for step, version in enumerate(behavior, start=1):
        assert policies.behavior(step) == version
        assert held_count(engine, version) == version
        assert policies.current(step) == step - 1
        assert held_count(engine, step - 1) == step - 1
        assert held_count(engine, version) == version
        assert engine.versions == tuple(sorted({version, step - 1}))
        learner.update(make_batch(step))


def test_without_retries_only_the_behavior_version_is_held():
    policies, engine, learner = make_policies(2)
    for step, version in [(1, 0), (2, 0), (3, 2), (4, 2), (5, 4)]:
        policies.behavior(step)
        assert engine.versions == (version,)
        learner.update(make_batch(step))


def test_asking_twice_in_a_step_publishes_once():
    policies, engine, _ = make_policies(2)
    published = []
    publish = engine.publish
    engine.publish = lambda version, *rest, **more: (
        published.append(version),
        publish(version, *rest, **more),
    )
    policies.behavior(1)
    assert [policies.current(1), policies.current(1)] == [0, 0]
    assert published == [0]


def test_the_current_policy_can_be_measured_between_steps():
    """An evaluation after step 3 asks for version 3 before step 4 begins; v = 2."""
    policies, engine, learner = make_policies(2)
    assert policies.current(1) == 0
    for step in (1, 2, 3):
        policies.behavior(step)
        learner.update(make_batch(step))
    assert policies.current(4) == 3
    assert engine.versions == (2, 3)
    assert (policies.behavior(4), policies.current(4)) == (2, 3)
    learner.update(make_batch(4))
    assert policies.current(5) == 4
    assert policies.behavior(5) == 4
    learner.update(make_batch(5))
    assert held_count(engine, policies.behavior(6)) == 4


@pytest.mark.parametrize(("sync_every", "policy"), [(1, "behavior"), (2, "current")])
def test_an_engine_that_keeps_old_weights_is_noticed_at_the_next_sync(sync_every, policy):
    policies, engine, learner = make_policies(sync_every)
    policies.behavior(1)
    old = copied(learner.weights)
    learner.update(make_batch(1))
    publish = engine.publish
    engine.publish = lambda version, weights, share=False: publish(version, old)
    with pytest.raises(StaleEngineError, match="policy version 1"):
        getattr(policies, policy)(2)


def test_weights_changed_after_they_were_shared_cannot_be_sampled_from():
    policies, engine, learner = make_policies(1)
    policies.behavior(1)
    learner.update(make_batch(1))
    with pytest.raises(StaleEngineError, match="changed in place"):
        held_count(engine, 0)


@pytest.mark.parametrize("sync_every", [1, 2, 5])
@pytest.mark.parametrize("until", [1, 2, 3, 5, 6])
def test_a_restored_behavior_policy_is_the_one_that_was_saved(sync_every, until):
    first, _, learner = make_policies(sync_every)
    for step in range(1, until + 1):
        first.behavior(step)
        learner.update(make_batch(step))
    state = copy.deepcopy(first.state_dict())
    resumed = CountingLearner()
    resumed.module.load_state_dict(learner.module.state_dict())
    second, engine, _ = make_policies(sync_every, resumed)
    second.load_state_dict(state)
    for step in range(until + 1, 13):
        version = second.behavior(step)
        assert version == first.behavior(step) == (step - 1) // sync_every * sync_every
        assert held_count(engine, version) == version
        assert held_count(engine, second.current(step)) == step - 1
        learner.update(make_batch(step))
        resumed.update(make_batch(step))


def test_a_state_saved_before_the_first_step_is_empty_and_can_be_restored():
    policies, _, _ = make_policies(2)
    state = policies.state_dict()
    assert state == {"version": None, "weights": {}}
    policies.load_state_dict(state)
    assert policies.behavior(1) == 0


def test_a_real_engine_samples_old_and_new_weights_side_by_side():
    policy = tiny_policy()
    engine = tiny_engine(policy)
    engine.forget(0)
    learner = make_learner(policy.model)
    probe = probe_rows(engine.encoder, [make_prompt("1+2=")], 4)
    policies = EnginePolicies(engine, learner, sync_every=5, probe=probe, tolerance=1e-4)
    row = ScoreRow(np.array([3, 4], np.int32), np.array([5, 6, 7], np.int32))

    policies.behavior(1)
    at_start = engine.score([row], version=0)[0]
    learner.update(example_batch(policy.model))
    weights = copied(learner.weights)
    assert policies.behavior(2) == 0
    np.testing.assert_array_equal(engine.score([row], version=0)[0], at_start)
    now = engine.score([row], version=policies.current(2))[0]
    assert np.abs(now - at_start).max() > 0.01
    assert all(torch.equal(weights[name], tensor) for name, tensor in learner.weights.items())
