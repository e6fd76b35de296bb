import math

import pytest
import torch

from bapo.objective import LOG_RATIO_LIMIT, importance_weights, masked_log_ratio
from tests.unit.objective.builders import leaf

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_weights_are_the_ratio_up_to_the_cap():
    behavior = torch.full((1, 4), -5.0)
    proximal = behavior + torch.tensor([[2.0, 0.5, 3.0, 10.0]]).log()
    result = importance_weights(
        proximal, behavior, ALL, sampled_by_proximal=torch.tensor([False]), cap=4.0
    )
    torch.testing.assert_close(result.weights, torch.tensor([[2.0, 0.5, 3.0, 4.0]]))
    assert result.truncated.tolist() == [[False, False, False, True]]


def test_a_row_sampled_by_the_proximal_policy_weighs_one_whatever_was_stored():
    proximal = torch.zeros(2, 4)
    behavior = torch.tensor([[-1.0, 1.0, 5.0, math.nan], [-1.0, -1.0, -1.0, -1.0]])
    result = importance_weights(
        proximal,
        behavior,
        ALL.expand(2, 4),
        sampled_by_proximal=torch.tensor([True, False]),
        cap=3.0,
    )
    assert result.weights[0].tolist() == [1.0, 1.0, 1.0, 1.0]
    torch.testing.assert_close(result.weights[1], torch.full((4,), math.e))
    assert not result.truncated.any()


def test_weights_carry_no_gradient():
    proximal = leaf([[0.0, 0.1, 0.2, 0.3]])
    result = importance_weights(
        proximal, torch.zeros(1, 4), ALL, sampled_by_proximal=torch.tensor([False]), cap=3.0
    )
    assert not result.weights.requires_grad


def test_extreme_log_ratios_give_zero_and_the_cap():
    proximal = torch.tensor([[-1000.0, 1000.0, -math.inf, 0.0]])
    behavior = torch.tensor([[0.0, 0.0, 0.0, -math.inf]])
    result = importance_weights(
        proximal, behavior, ALL, sampled_by_proximal=torch.tensor([False]), cap=3.0
    )
    torch.testing.assert_close(
        result.weights, torch.tensor([[0.0, 3.0, 0.0, 3.0]]), atol=1e-8, rtol=0
    )
    assert result.truncated.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_masked_places_reach_neither_value_nor_gradient(bad):
    mask = torch.tensor([[True, False, True, False]])
    policy = leaf([[0.5, bad, -0.5, bad]])
    log_ratio = masked_log_ratio(policy, torch.tensor([[0.0, 0.0, 0.0, bad]]), mask)
    assert log_ratio.tolist() == [[0.5, 0.0, -0.5, 0.0]]
    log_ratio.exp().sum().backward()
    torch.testing.assert_close(
        policy.grad, torch.tensor([[math.exp(0.5), 0.0, math.exp(-0.5), 0.0]])
    )


def test_a_nan_that_counts_does_not_hide():
    assert masked_log_ratio(torch.tensor([[math.nan]]), torch.zeros(1, 1), ALL[:, :1]).isnan().all()


def test_beyond_the_limit_the_ratio_is_finite_and_has_no_gradient():
    policy = leaf([[1000.0, -1000.0, 19.0]])
    log_ratio = masked_log_ratio(policy, torch.zeros(1, 3), ALL[:, :3])
    assert log_ratio.tolist() == [[LOG_RATIO_LIMIT, -LOG_RATIO_LIMIT, 19.0]]
    log_ratio.sum().backward()
    assert policy.grad.tolist() == [[0.0, 0.0, 1.0]]
