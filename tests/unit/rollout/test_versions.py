import pytest
import torch
from torch import nn

from bapo.errors import StaleEngineError
from bapo.rollout.versions import DelayedPolicy, VersionedWeights
from bapo.types import Prompt
from tests.rollout_models import tiny_engine, tiny_model, tiny_policy

PROMPTS = [Prompt("a", "1+2=", {}), Prompt("b", "3*4", {})]


def sample(engine, version) -> list[list[int]]:
    rollouts = engine.sample(
        PROMPTS, version=version, group_size=4, step=1, seed=0, temperature=1.0
    )
    assert {rollout.policy_version for rollout in rollouts} == {version}
    return [one.token_ids.tolist() for rollout in rollouts for one in rollout.completions]


def weights(model) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


def test_two_versions_behind_one_engine_give_the_samples_of_their_own_weights():
    engine = tiny_engine(tiny_policy(seed=0))
    engine.publish(5, weights(tiny_model(seed=1)))
    assert engine.versions == (0, 5)
    zero, five = sample(engine, 0), sample(engine, 5)
    assert zero != five
    assert zero == sample(tiny_engine(tiny_policy(seed=0)), 0)
    assert five == sample(tiny_engine(tiny_policy(seed=1)), 0)
    assert zero == sample(engine, 0)


def test_sampling_leaves_the_modules_own_weights_mode_and_gradients_as_they_were():
    policy = tiny_policy(seed=0)
    engine = tiny_engine(policy)
    engine.publish(1, weights(tiny_model(seed=1)))
    policy.model.train()
    before = {name: value.data_ptr() for name, value in policy.model.named_parameters()}
    values = {name: value.clone() for name, value in policy.model.named_parameters()}
    policy.model.lm_head.weight.grad = torch.ones_like(policy.model.lm_head.weight)
    sample(engine, 1)
    assert policy.model.training
    assert {name: value.data_ptr() for name, value in policy.model.named_parameters()} == before
    assert all(torch.equal(values[name], value) for name, value in weights(policy.model).items())
    assert torch.equal(policy.model.lm_head.weight.grad, torch.ones_like(values["lm_head.weight"]))
    assert all(value.requires_grad for value in policy.model.parameters())


def test_a_copied_version_outlives_changes_of_the_weights_it_was_made_from():
    policy = tiny_policy(seed=0)
    engine = tiny_engine(policy)
    before = sample(engine, 0)
    with torch.no_grad():
        for value in policy.model.parameters():
            value.mul_(-1.5)
    assert sample(engine, 0) == before


def test_a_shared_version_holds_no_copy_and_is_refused_once_its_tensors_have_changed():
    policy = tiny_policy(seed=0)
    engine = tiny_engine(policy)
    learner = weights(policy.model)
    engine.publish(3, learner, share=True)
    assert sample(engine, 3) == sample(engine, 0)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.1)
    policy.model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    optimizer.step()
    with pytest.raises(StaleEngineError, match="policy version 3 were changed in place"):
        sample(engine, 3)
    engine.publish(4, learner, share=True)
    assert sample(engine, 4) != sample(engine, 0)


def test_an_optimizer_goes_on_as_if_nothing_had_been_sampled():
    def train(samples: bool) -> torch.Tensor:
        policy = tiny_policy(seed=0)
        engine = tiny_engine(policy)
        optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.01)
        for _ in range(2):
            if samples:
                engine.publish(1, weights(tiny_model(seed=1)))
                sample(engine, 1)
            optimizer.zero_grad()
            policy.model(torch.tensor([[3, 4, 5]])).logits.logsumexp(-1).sum().backward()
            optimizer.step()
        return policy.model.lm_head.weight.detach()

    assert torch.equal(train(True), train(False))


def test_a_forgotten_or_unknown_version_is_refused():
    engine = tiny_engine()
    engine.publish(1, weights(tiny_model(seed=1)))
    engine.forget(0)
    engine.forget(9)
    assert engine.versions == (1,)
    with pytest.raises(StaleEngineError, match=r"version 0 \(it holds 1\)"):
        sample(engine, 0)


def test_weights_of_another_model_are_refused():
    versions = VersionedWeights(nn.Linear(2, 3))
    right = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    with pytest.raises(ValueError, match="lack 'bias'"):
        versions.publish(0, {"weight": right["weight"]})
    with pytest.raises(ValueError, match="unknown 'scale'"):
        versions.publish(0, {**right, "scale": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'weight' have the shape \(2, 3\)"):
        versions.publish(0, {**right, "weight": torch.zeros(2, 3)})


def test_a_state_dict_with_tied_weights_is_taken():
    policy = tiny_policy("gemma", seed=0)
    engine = tiny_engine(policy)
    engine.publish(1, tiny_model("gemma", seed=0).state_dict())
    assert sample(engine, 1) == sample(engine, 0)


def step_weights(step: int) -> dict[str, torch.Tensor]:
    """The policy at the start of a step, told apart by its number."""
    return {"w": torch.full((2,), float(step))}


@pytest.mark.parametrize(
    ("every", "versions"),
    [
        (1, [0, 1, 2, 3, 4, 5, 6]),
        (2, [0, 0, 2, 2, 4, 4, 6]),
        (5, [0, 0, 0, 0, 0, 5, 5]),
    ],
)
def test_the_behavior_policy_is_copied_every_v_steps(every, versions):
    delayed = DelayedPolicy(every)
    for step, version in enumerate(versions, start=1):
        assert delayed.sync(step, step_weights(step)) is (version == step - 1)
        assert delayed.version == version
        assert delayed.weights["w"].tolist() == [version + 1.0] * 2


def test_the_copy_does_not_follow_the_policy_but_on_policy_there_is_no_copy():
    policy = step_weights(1)
    copied, shared = DelayedPolicy(2), DelayedPolicy(1)
    copied.sync(1, policy)
    shared.sync(1, policy)
    policy["w"].add_(10)
    assert copied.weights["w"].tolist() == [1.0, 1.0]
    assert shared.weights["w"].data_ptr() == policy["w"].data_ptr()


def test_state_dict_round_trip_continues_the_schedule():
    delayed, restored = DelayedPolicy(5), DelayedPolicy(5)
    delayed.sync(6, step_weights(6))
    state = delayed.state_dict()
    restored.load_state_dict(state)
    state["weights"]["w"].zero_()
    assert restored.version == 5
    assert restored.weights["w"].tolist() == [6.0, 6.0]
    assert not restored.sync(7, step_weights(7))
    assert restored.sync(11, step_weights(11))
    assert restored.version == 10


def test_state_dict_before_the_first_sync_and_on_policy_keeps_no_tensors():
    fresh = DelayedPolicy(5)
    assert fresh.state_dict() == {"version": None, "weights": {}}
    fresh.load_state_dict(fresh.state_dict())
    with pytest.raises(StaleEngineError, match="no weights yet"):
        _ = fresh.version
    on_policy = DelayedPolicy(1)
    on_policy.sync(3, step_weights(3))
    assert on_policy.state_dict() == {"version": 2, "weights": {}}
