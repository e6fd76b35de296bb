import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from bapo.objective import group_advantages


def test_two_right_of_four_give_plus_and_minus_half_with_an_epsilon_of_half():
    # mean 0.5, population std 0.5, divided by 0.5 + 0.5
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), scale=True, epsilon=0.5)
    assert advantages.tolist() == [[0.5, -0.5, -0.5, 0.5]]


def test_the_standard_deviation_is_the_population_one():
    # mean 1/4, variance (9 + 3) / 64 = 3/16; 0.75 / sqrt(3/16) = sqrt(3)
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), scale=True, epsilon=1e-12)
    expected = torch.tensor([[3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]])
    torch.testing.assert_close(advantages, expected)


def test_without_scale_only_the_mean_is_taken_off():
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0], [2.0, 0.0, 1.0, 1.0]])
    advantages = group_advantages(scores, scale=False, epsilon=1e-6)
    assert advantages.tolist() == [[0.75, -0.25, -0.25, -0.25], [1.0, -1.0, 0.0, 0.0]]


def test_groups_do_not_see_one_another():
    first = torch.tensor([[1.0, 0.0, 0.0]])
    both = group_advantages(torch.cat([first, first * 100 + 7]), scale=False, epsilon=1e-6)
    assert torch.equal(both[:1], group_advantages(first, scale=False, epsilon=1e-6))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -0.3, 1e-30, 3e38])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_give_exactly_zero(value, size, scale, dtype):
    scores = torch.full((2, size), value, dtype=dtype)
    advantages = group_advantages(scores, scale=scale, epsilon=1e-6)
    assert torch.equal(advantages, torch.zeros(2, size))


@effort(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=8, max_size=8), min_size=1),
    st.booleans(),
)
def test_advantages_sum_to_zero_and_keep_the_order_of_the_scores(rows, scale):
    scores = torch.tensor(rows)
    advantages = group_advantages(scores, scale=scale, epsilon=1e-6)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(len(rows)), atol=1e-5, rtol=0)
    better = scores[:, :, None] > scores[:, None, :]
    assert bool((advantages[:, :, None] > advantages[:, None, :])[better].all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(torch.tensor([[1.0, bad]]), scale=True, epsilon=1e-6)


def test_scores_without_groups_are_refused():
    with pytest.raises(ValueError, match="shape"):
        group_advantages(torch.ones(4), scale=True, epsilon=1e-6)


def test_no_group_gives_no_advantage():
    assert group_advantages(torch.ones(0, 8), scale=True, epsilon=1e-6).shape == (0, 8)
