import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from bapo.config import ObjectiveSettings
from bapo.objective import (
    SUM_NAMES,
    LossInputs,
    group_advantages,
    loss_normaliser,
    objective_metrics,
    policy_loss,
)
from tests.unit.objective.builders import half_like, leaf, loss_inputs, ratios_to_logps

TOKEN_MEAN = ObjectiveSettings()
SEQUENCE_MEAN = ObjectiveSettings(aggregation="sequence_mean")


def total_loss(inputs, settings=TOKEN_MEAN):
    """The loss of a mini-batch that is one micro-batch."""
    return policy_loss(inputs, settings, loss_normaliser(inputs.mask, settings.aggregation))


def assert_close(tensor, expected):
    torch.testing.assert_close(tensor, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_the_clip_holds_on_both_sides():
    # A = 1: 1.5 is clipped to 1.28, 1.1 and 0.5 are not; A = -1: 0.5 to 0.8, 1.5 and 1.1 are not
    policy = ratios_to_logps([[1.5, 1.1, 0.5], [0.5, 1.5, 1.1]])
    inputs = loss_inputs(policy, proximal=half_like(policy), advantages=[1.0, -1.0])
    output = total_loss(inputs)
    output.loss.backward()
    assert_close(output.loss, -(1.28 + 1.1 + 0.5 - 0.8 - 1.5 - 1.1) / 6)
    assert_close(policy.grad, [[0.0, -1.1 / 6, -0.5 / 6], [0.0, 1.5 / 6, 1.1 / 6]])
    assert output.sums["ratio_clipped"] == 2


def test_token_mean_weighs_tokens_and_sequence_mean_completions():
    mask = torch.tensor([[True, False, False], [True, True, True]])
    policy = leaf([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    inputs = loss_inputs(policy, advantages=[3.0, 1.0], mask=mask)
    token_mean, sequence_mean = total_loss(inputs), total_loss(inputs, SEQUENCE_MEAN)
    assert_close(token_mean.loss, -(3 + 1 + 1 + 1) / 4)
    assert_close(sequence_mean.loss, -(3 + 1) / 2)
    token_mean.loss.backward()
    assert_close(policy.grad, [[-0.75, 0, 0], [-0.25, -0.25, -0.25]])
    policy.grad = None
    sequence_mean.loss.backward()
    assert_close(policy.grad, [[-1.5, 0, 0], [-1 / 6, -1 / 6, -1 / 6]])


def test_importance_weights_scale_loss_and_gradient_and_are_truncated():
    # proximal / behavior = 2, 0.5, 10 -> 3; the second row was sampled by the proximal policy
    policy = leaf([[-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    behavior = policy.detach() - torch.tensor([2.0, 0.5, 10.0]).log()
    inputs = loss_inputs(policy, behavior=behavior, advantages=[1.0, -2.0])
    inputs = LossInputs(
        policy, policy.detach(), behavior, inputs.advantages, inputs.mask, torch.tensor([0, 1]) > 0
    )
    output = total_loss(inputs)
    output.loss.backward()
    assert_close(output.loss, (-(2 + 0.5 + 3) + 6) / 6)
    assert_close(policy.grad, [[-2 / 6, -0.5 / 6, -3 / 6], [2 / 6, 2 / 6, 2 / 6]])
    assert_close(output.sums["importance_weight"].float(), 8.5)
    assert output.sums["importance_weight_truncated"] == 1


def test_the_kl_is_added_with_its_coefficient():
    # u = 2: u log u - u + 1 = 2 log 2 - 1, gradient u log u; the policy term has ratio 1
    settings = ObjectiveSettings(kl_coefficient=0.5)
    policy = ratios_to_logps([[2.0, 2.0]])
    inputs = loss_inputs(policy, behavior=half_like(policy), advantages=[1.0])
    output = total_loss(inputs, settings)
    output.loss.backward()
    gradient = (-1 + 0.5 * 2 * math.log(2)) / 2
    assert_close(output.loss, -1 + 0.5 * (2 * math.log(2) - 1))
    assert_close(policy.grad, [[gradient, gradient]])
    assert_close(output.sums["kl_behavior"].float(), 2 * (2 * math.log(2) - 1))


def test_without_a_coefficient_the_kl_is_measured_and_nothing_else():
    policy = ratios_to_logps([[2.0, 2.0]])
    inputs = loss_inputs(policy, behavior=half_like(policy), advantages=[0.0])
    output = total_loss(inputs)
    output.loss.backward()
    assert output.sums["kl_behavior"] > 0.7
    assert policy.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("settings", [TOKEN_MEAN, SEQUENCE_MEAN])
def test_a_group_of_equal_scores_gives_exactly_zero_loss_and_gradient(settings):
    advantages = group_advantages(torch.full((1, 8), 0.1), scale=True, epsilon=1e-6).flatten()
    policy = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs = loss_inputs(
        policy,
        proximal=torch.zeros(8, 5),
        behavior=torch.full((8, 5), -2.0),
        advantages=advantages,
        on_policy=False,
    )
    output = total_loss(inputs, settings)
    output.loss.backward()
    assert output.loss == 0
    assert torch.equal(policy.grad, torch.zeros(8, 5))


def test_a_group_of_equal_scores_is_still_pulled_to_the_behavior_policy_by_the_kl():
    settings = ObjectiveSettings(kl_coefficient=0.1)
    policy = ratios_to_logps([[2.0, 0.5, 1.0]])
    inputs = loss_inputs(policy, behavior=half_like(policy), advantages=[0.0])
    total_loss(inputs, settings).loss.backward()
    too_likely, too_unlikely, equal = policy.grad[0].tolist()
    assert too_likely > 0 > too_unlikely  # gradient descent lowers the one and raises the other
    assert equal == 0


@pytest.mark.parametrize("settings", [TOKEN_MEAN, SEQUENCE_MEAN])
@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_padded_places_and_rows_may_hold_anything(bad, beta, settings):
    settings = ObjectiveSettings(aggregation=settings.aggregation, kl_coefficient=beta)
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    generator = torch.Generator().manual_seed(0)
    clean = [torch.randn(3, 3, generator=generator) for _ in range(4)]
    results = []
    for padding in (-1.0, bad):
        policy, proximal, behavior, entropy = (
            torch.where(mask, item, torch.tensor(padding)) for item in clean
        )
        policy.requires_grad_()
        inputs = LossInputs(
            policy,
            proximal,
            behavior,
            torch.tensor([1.0, -1.0, padding]),
            mask,
            torch.tensor([False, True, False]),
            entropy,
        )
        output = total_loss(inputs, settings)
        output.loss.backward()
        results.append((output.loss, policy.grad, output.sums))
    (loss, gradient, sums), (spoiled_loss, spoiled_gradient, spoiled_sums) = results
    assert torch.equal(loss, spoiled_loss)
    assert torch.equal(gradient, spoiled_gradient)
    assert sums == spoiled_sums
    assert bool((gradient[~mask] == 0).all())
    assert bool((gradient[mask] != 0).any())


@pytest.mark.parametrize("settings", [TOKEN_MEAN, SEQUENCE_MEAN])
def test_rows_without_tokens_count_for_nothing(settings):
    policy = leaf([[-1.0, -2.0], [-3.0, -4.0]])
    mask = torch.tensor([[True, True], [False, False]])
    inputs = loss_inputs(policy, advantages=[1.0, 5.0], mask=mask)
    assert_close(total_loss(inputs, settings).loss, -1.0)


@pytest.mark.parametrize("settings", [TOKEN_MEAN, SEQUENCE_MEAN])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_a_micro_batch_without_tokens_gives_a_zero_that_can_be_differentiated(shape, settings):
    policy = torch.full(shape, math.nan).requires_grad_()
    inputs = loss_inputs(
        policy, advantages=torch.full(shape[:1], math.nan), mask=torch.zeros(shape).bool()
    )
    output = total_loss(inputs, settings)
    output.loss.backward()
    assert output.loss == 0
    assert torch.equal(policy.grad, torch.zeros(shape))
    assert set(objective_metrics(output.sums).values()) == {None}


@pytest.mark.parametrize("settings", [TOKEN_MEAN, SEQUENCE_MEAN])
def test_one_token_of_one_completion(settings):
    policy = leaf([[-0.7]])
    output = total_loss(loss_inputs(policy, advantages=[2.0]), settings)
    output.loss.backward()
    assert output.loss == -2
    assert policy.grad.tolist() == [[-2.0]]


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("estimator", ["k3_weighted", "k3"])
def test_extreme_log_ratios_give_finite_loss_and_gradient(estimator, beta, advantage):
    settings = ObjectiveSettings(kl_coefficient=beta, kl_estimator=estimator)
    policy = leaf([[-1000.0, 0.0, -math.inf, -1.0, 0.0, -1000.0]])
    proximal = torch.tensor([[0.0, -1000.0, -1.0, -math.inf, 0.0, 0.0]])
    behavior = torch.tensor([[-1000.0, 0.0, 0.0, -1.0, -1000.0, -math.inf]])
    inputs = loss_inputs(
        policy, proximal=proximal, behavior=behavior, advantages=[advantage], on_policy=False
    )
    output = total_loss(inputs, settings)
    output.loss.backward()
    assert bool(torch.isfinite(output.loss))
    assert bool(torch.isfinite(policy.grad).all())
    assert all(math.isfinite(value) for name, value in output.sums.items() if name != "entropy")


@pytest.mark.parametrize("field", ["policy_logps", "proximal_logps", "behavior_logps"])
def test_a_nan_that_counts_reaches_the_loss(field):
    values = dict.fromkeys(("policy_logps", "proximal_logps", "behavior_logps"), torch.zeros(2, 2))
    values[field] = torch.tensor([[0.0, math.nan], [0.0, 0.0]])
    inputs = LossInputs(
        **values,
        advantages=torch.ones(2),
        mask=torch.ones(2, 2).bool(),
        sampled_by_proximal=torch.zeros(2).bool(),
    )
    assert total_loss(inputs).loss.isnan()


@effort(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 9),
    length=st.integers(1, 5),
    cuts=st.sets(st.integers(1, 8)),
    aggregation=st.sampled_from(["token_mean", "sequence_mean"]),
    beta=st.sampled_from([0.0, 0.3]),
)
def test_micro_batches_add_up_to_the_whole(seed, rows, length, cuts, aggregation, beta):
    settings = ObjectiveSettings(aggregation=aggregation, kl_coefficient=beta)
    generator = torch.Generator().manual_seed(seed)
    policy, proximal, behavior, entropy = torch.randn(4, rows, length, generator=generator)
    policy.requires_grad_()
    whole = LossInputs(
        policy,
        proximal,
        behavior,
        torch.randn(rows, generator=generator),
        torch.rand(rows, length, generator=generator) < 0.6,
        torch.rand(rows, generator=generator) < 0.5,
        entropy,
    )
    normaliser = loss_normaliser(whole.mask, aggregation)
    expected = policy_loss(whole, settings, normaliser)
    (expected_gradient,) = torch.autograd.grad(expected.loss, policy)
    loss, sums, counted = 0.0, dict.fromkeys(SUM_NAMES, 0.0), 0
    bounds = [0, *sorted(cut for cut in cuts if cut < rows), rows]
    for start, end in pairwise(bounds):
        fields = [getattr(whole, name)[start:end] for name in LossInputs.__dataclass_fields__]
        part = LossInputs(*fields)
        output = policy_loss(part, settings, normaliser)
        output.loss.backward()
        counted += loss_normaliser(part.mask, aggregation)
        loss += output.loss.item()
        sums = {name: sums[name] + output.sums[name].item() for name in SUM_NAMES}
    assert counted == normaliser
    assert loss == pytest.approx(expected.loss.item(), abs=1e-5, rel=1e-5)
    torch.testing.assert_close(policy.grad, expected_gradient, atol=1e-6, rtol=1e-5)
    for name in SUM_NAMES:
        assert sums[name] == pytest.approx(expected.sums[name].item(), abs=1e-4, rel=1e-5)


def test_metrics_are_means_over_the_tokens_that_count():
    mask = torch.tensor([[True, True, False], [True, True, False]])
    policy = ratios_to_logps([[1.5, 1.0, 9.0], [1.0, 1.0, 9.0]])
    inputs = LossInputs(
        policy,
        half_like(policy),
        half_like(policy) - torch.tensor([[0.5, 10.0, 10.0], [10.0, 10.0, 10.0]]).log(),
        torch.tensor([1.0, 1.0]),
        mask,
        torch.tensor([False, True]),
        torch.tensor([[1.0, 2.0, 50.0], [3.0, 4.0, 50.0]]),
    )
    metrics = objective_metrics(total_loss(inputs).sums)
    kl = metrics.pop("kl_behavior")
    assert metrics == pytest.approx(
        {
            "importance_weight_mean": (0.5 + 3 + 1 + 1) / 4,
            "importance_weight_truncated_share": 0.25,
            "ratio_clipped_share": 0.25,
            "entropy": 2.5,
        }
    )
    # u = 0.75; the other three tokens have u = 10, above the cap of 3
    first = 1 - 0.75 + 0.75 * math.log(0.75)
    assert kl == pytest.approx((first + 3 * 3 * (math.log(10) - 0.9)) / 4, rel=1e-5)


def test_an_entropy_that_is_not_known_is_not_reported_as_zero():
    output = total_loss(loss_inputs(leaf([[-1.0]]), advantages=[1.0]))
    assert objective_metrics(output.sums)["entropy"] is None


def test_proximal_and_behavior_are_constants_even_where_the_caller_forgot_to_detach():
    settings = ObjectiveSettings(kl_coefficient=0.5)
    policy = leaf([[-1.0, -2.0]])
    inputs = loss_inputs(policy, proximal=policy, behavior=policy, advantages=[1.0])
    total_loss(inputs, settings).loss.backward()
    assert policy.grad.tolist() == [[-0.5, -0.5]]


def test_inputs_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="per-row"):
        loss_inputs(leaf([[0.0, 0.0]]), advantages=[[1.0, 1.0]])
    with pytest.raises(ValueError, match="per-token"):
        loss_inputs(leaf([[0.0, 0.0]]), advantages=[1.0], proximal=torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(B, T\)"):
        loss_inputs(leaf([0.0]), advantages=[1.0])
    with pytest.raises(ValueError, match="bool"):
        loss_inputs(leaf([[0.0]]), advantages=[1.0], mask=torch.ones(1, 1))


@pytest.mark.parametrize("normaliser", [-1.0, math.nan])
def test_a_normaliser_that_makes_no_sense_is_refused(normaliser):
    with pytest.raises(ValueError, match="normaliser"):
        policy_loss(loss_inputs(leaf([[0.0]]), advantages=[1.0]), TOKEN_MEAN, normaliser)


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="median"):
        loss_normaliser(torch.ones(1, 1).bool(), "median")
