import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from bapo.objective import behavior_kl
from tests.unit.objective.builders import half_like, leaf, ratios_to_logps

LN2, LN6 = math.log(2.0), math.log(6.0)


def kl(policy, behavior, estimator="k3_weighted", cap=1e9, mask=None):
    mask = torch.ones(policy.shape, dtype=torch.bool) if mask is None else mask
    return behavior_kl(policy, behavior, mask, estimator=estimator, cap=cap)


def test_literal_values_and_gradients_of_the_weighted_estimator():
    # 1 - u + u log u, gradient u log u; above the cap c: c (1/u - 1 + log u), gradient c (1 - 1/u)
    policy = ratios_to_logps([[1.0, 2.0, 0.5, 6.0]])
    value = kl(policy, half_like(policy), cap=3.0)
    expected = [[0.0, 2 * LN2 - 1, 0.5 - 0.5 * LN2, 3 * (LN6 - 5 / 6)]]
    torch.testing.assert_close(value, torch.tensor(expected), atol=1e-6, rtol=1e-5)
    value.sum().backward()
    expected = [[0.0, 2 * LN2, -0.5 * LN2, 2.5]]
    torch.testing.assert_close(policy.grad, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_literal_values_and_gradients_of_the_unweighted_estimator():
    # 1/u - 1 + log u, and 1 - 1/u
    policy = ratios_to_logps([[1.0, 2.0, 0.5, 6.0]])
    value = kl(policy, half_like(policy), "k3", cap=3.0)
    expected = [[0.0, LN2 - 0.5, 1 - LN2, LN6 - 5 / 6]]
    torch.testing.assert_close(value, torch.tensor(expected), atol=1e-6, rtol=1e-5)
    value.sum().backward()
    torch.testing.assert_close(
        policy.grad, torch.tensor([[0.0, 0.5, -1.0, 5 / 6]]), atol=1e-6, rtol=1e-5
    )


@effort(deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
)
def test_on_an_enumerated_policy_value_and_gradient_are_unbiased(policy_logits, behavior_logits):
    """The mean over alpha's samples is KL(pi || alpha), and its gradient is that of the KL."""
    theta = leaf(policy_logits)
    log_pi, log_alpha = theta.log_softmax(0), torch.tensor(behavior_logits).log_softmax(0)
    expectation = (log_alpha.exp() * kl(log_pi[None], log_alpha[None])[0]).sum()
    exact = (log_pi.exp() * (log_pi - log_alpha)).sum()
    (gradient,) = torch.autograd.grad(expectation, theta, retain_graph=True)
    (exact_gradient,) = torch.autograd.grad(exact, theta)
    torch.testing.assert_close(expectation, exact, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(gradient, exact_gradient, atol=2e-6, rtol=1e-4)


def test_the_gradient_is_not_that_of_the_other_direction():
    theta = leaf([2.0, 0.0, -1.0])
    log_pi, log_alpha = theta.log_softmax(0), torch.zeros(3).log_softmax(0)
    expectation = (log_alpha.exp() * kl(log_pi[None], log_alpha[None])[0]).sum()
    reverse = (log_alpha.exp() * (log_alpha - log_pi)).sum()
    (gradient,) = torch.autograd.grad(expectation, theta, retain_graph=True)
    (reverse_gradient,) = torch.autograd.grad(reverse, theta)
    assert (gradient - reverse_gradient).abs().max() > 0.1


def test_over_two_tokens_it_estimates_the_divergence_at_the_prefixes_that_alpha_visits():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(3, generator=generator), torch.randn(3, 3, generator=generator)
    theta_first, theta_second = leaf([0.3, -0.2, 0.9]), leaf([[1.0, 0, 0], [0, 2, 0], [1, 1, 0]])
    log_pi = theta_first.log_softmax(0), theta_second.log_softmax(1)
    log_alpha = first.log_softmax(0), second.log_softmax(1)
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    policy = torch.stack([log_pi[0][pairs[:, 0]], log_pi[1][pairs[:, 0], pairs[:, 1]]], dim=1)
    behavior = torch.stack(
        [log_alpha[0][pairs[:, 0]], log_alpha[1][pairs[:, 0], pairs[:, 1]]], dim=1
    )
    estimate = (behavior.sum(1).exp() * kl(policy, behavior).sum(1)).sum()
    exact = (log_pi[0].exp() * (log_pi[0] - log_alpha[0])).sum() + (
        log_alpha[0].exp() * (log_pi[1].exp() * (log_pi[1] - log_alpha[1])).sum(1)
    ).sum()
    torch.testing.assert_close(estimate, exact)
    gradient = torch.autograd.grad(estimate, (theta_first, theta_second), retain_graph=True)
    expected = torch.autograd.grad(exact, (theta_first, theta_second))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("estimator", ["k3_weighted", "k3"])
@pytest.mark.parametrize("cap", [0.5, 3.0, 1e12])
def test_extreme_log_ratios_stay_finite_and_are_never_negative(estimator, cap):
    policy = leaf([[1000.0, -1000.0, -math.inf, 0.0, 1e-4, -1e-4, 30.0, -30.0]])
    behavior = torch.zeros(1, 8)
    behavior[0, 3] = -math.inf
    value = kl(policy, behavior, estimator, cap)
    value.sum().backward()
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(policy.grad).all())
    assert bool((value >= -1e-7).all())


@pytest.mark.parametrize("estimator", ["k3_weighted", "k3"])
def test_value_and_gradient_are_exactly_zero_where_the_policies_agree(estimator):
    policy = leaf([[-0.1, -3.0, -17.0]])
    value = kl(policy, policy.detach().clone(), estimator, cap=3.0)
    value.sum().backward()
    assert value.tolist() == [[0.0, 0.0, 0.0]]
    assert policy.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("estimator", ["k3_weighted", "k3"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_masked_places_are_zero(estimator, bad):
    mask = torch.tensor([[True, False, False]])
    policy = leaf([[0.5, bad, 0.0]])
    value = kl(policy, torch.tensor([[0.0, 0.0, bad]]), estimator, 3.0, mask)
    value.sum().backward()
    assert value[0, 1:].tolist() == policy.grad[0, 1:].tolist() == [0.0, 0.0]
    assert value[0, 0] > 0


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="k4"):
        kl(torch.zeros(1, 1), torch.zeros(1, 1), "k4")
