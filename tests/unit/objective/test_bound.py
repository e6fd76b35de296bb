"""The bound and the distances on numbers worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from bapo.config import AdaptationSettings
from bapo.objective import (
    PUBLISHED,
    Trust,
    effective_share,
    expected_gain,
    group_bounds,
    improvement_bound,
    penalty_factor,
    reward_deviation,
    sequence_kl,
    sequence_log_ratio,
    token_tv,
    trust,
    tv_clipped,
    tv_one_sided,
    tv_pinsker,
    tv_token_sum,
    tv_two_sided,
    worst_penalty_factor,
    worst_penalty_factors,
)
from bapo.types import Source


def logs(*ratios):
    """`(1, G)` log-ratios of one group."""
    return torch.tensor([ratios], dtype=torch.float64).log()


def test_the_bound_of_one_group_is_the_one_worked_out_by_hand():
    # Scores 1, 0, 0, 0: sigma = sqrt(3) / 4, K = 4 / sqrt(3) - 1. Under pi the right answer is
    # twice as likely and one wrong answer half as likely; under pi_t one is a quarter less likely.
    found = group_bounds(
        logs(2.0, 0.5, 1.0, 1.0),
        logs(1.0, 0.75, 1.0, 1.0),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        cap=3.0,
    )
    sigma = math.sqrt(3) / 4
    assert found.sigma.item() == pytest.approx(sigma)
    assert found.surrogate.item() == pytest.approx(0.25 / sigma)  # (2 - 1) * 1 / 4
    assert found.factor.item() == pytest.approx(4 / math.sqrt(3) - 1)
    assert found.policy_tv.item() == pytest.approx(0.125)  # (1 - 0.5) / 4
    assert found.behavior_tv.item() == pytest.approx(0.0625)
    penalty = (4 / math.sqrt(3) - 1) * 0.125 + 0.0625
    assert found.penalty().item() == pytest.approx(penalty)
    assert found.total().item() == pytest.approx(0.25 / sigma - penalty)
    assert found.penalty(PUBLISHED).item() == pytest.approx(2 * penalty)
    assert found.total(PUBLISHED).item() == pytest.approx(0.25 / sigma - 2 * penalty)
    assert found.direct().item() == pytest.approx(0.25 - 0.0625)


def test_the_same_policies_give_a_bound_of_zero():
    same = torch.zeros(2, 4, dtype=torch.float64)
    found = group_bounds(same, same, torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 1, 0]]), cap=3.0)
    assert found.total().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scores", [[0.0] * 4, [1.0] * 4, [0.1] * 4])
def test_a_group_without_variance_has_no_bound(scores):
    found = group_bounds(logs(1, 2, 3, 4), logs(1, 2, 3, 4), torch.tensor([scores]), cap=3.0)
    assert found.sigma.item() == 0.0
    assert found.total().isnan().item()
    assert found.penalty().isnan().item()


def test_groups_do_not_touch_one_another():
    ratios = torch.log(torch.tensor([[2.0, 0.5], [1.0, 1.0]], dtype=torch.float64))
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    both = group_bounds(ratios, ratios, scores, cap=3.0).total()
    alone = group_bounds(ratios[:1], ratios[:1], scores[:1], cap=3.0).total()
    assert both[0] == alone[0]
    assert both[1].item() == 0.0


@pytest.mark.parametrize("bad", [1.5, -0.1, math.nan])
def test_rewards_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        reward_deviation(torch.tensor([[bad, 0.5]]))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="share one shape"):
        group_bounds(logs(1, 2), logs(1), torch.tensor([[1.0, 0.0]]), cap=3.0)


@pytest.mark.parametrize(
    ("sigma", "factor"), [(0.5, 1.0), (0.25, 3.0), (1.0, 0.0), (0.0, math.inf)]
)
def test_the_penalty_factor(sigma, factor):
    assert penalty_factor(torch.tensor(sigma)).item() == factor


def test_the_two_forms_of_the_bound():
    terms = [torch.tensor(value) for value in (0.5, 2.0, 0.125, 0.0625)]
    assert improvement_bound(*terms).item() == 0.5 - 0.25 - 0.0625
    assert improvement_bound(*terms, form=PUBLISHED).item() == 0.5 - 0.5 - 0.125


def test_a_truncated_ratio_takes_away_from_the_gain_and_never_adds():
    ratios, scores = logs(9.0, 0.5, 1.0, 1.0), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert expected_gain(ratios, scores).item() == pytest.approx((8 - 0.5) / 4)
    assert expected_gain(ratios, scores, cap=3.0).item() == pytest.approx((2 - 0.5) / 4)


def test_a_wrong_answer_with_an_infinite_ratio_adds_nothing_to_the_gain():
    ratios = torch.tensor([[math.inf, 0.0]], dtype=torch.float64)
    assert expected_gain(ratios, torch.tensor([[0.0, 1.0]])).item() == 0.0


# Rates of G = 8 that are possible: c1 = 1/8 leaves 2/8 to 7/8 to retried groups, and of these 7/8
# has the smallest deviation, as small as that of 1/8. The worst K of X2 is that of X1 whatever c1.
def test_the_worst_factors_of_the_defaults():
    found = worst_penalty_factors(AdaptationSettings(), 8, (0.375, 0.5))
    assert found[Source.FRESH] == pytest.approx(8 / math.sqrt(7) - 1)
    assert found[Source.RETRIED] == pytest.approx(8 / math.sqrt(7) - 1)
    assert found[Source.REUSED] == pytest.approx(8 / math.sqrt(15) - 1)


def test_the_worst_factor_of_sources_that_are_off_or_unfiltered():
    off = AdaptationSettings(filter_fresh=False, retry=False, reuse=False)
    found = worst_penalty_factors(off, 8, (0.0, 0.25))
    assert found == {Source.FRESH: math.inf, Source.RETRIED: None, Source.REUSED: None}


@pytest.mark.parametrize(
    ("low", "high", "is_open", "sigma"),
    [
        (0.0, 1.0, False, math.sqrt(3) / 4),  # 1/4 and 3/4
        (0.25, 0.5, False, math.sqrt(3) / 4),  # the end is in
        (0.25, 0.5, True, 0.5),  # only 2/4
        (0.5, 0.5, False, 0.5),
    ],
)
def test_the_worst_factor_between_two_rates(low, high, is_open, sigma):
    found = worst_penalty_factor(4, low, high, low_is_open=is_open)
    assert found == pytest.approx((1 - sigma) / sigma)


def test_an_interval_without_a_rate_has_no_worst_factor():
    assert worst_penalty_factor(4, 0.3, 0.45) is None
    assert worst_penalty_factor(4, 0.0, 0.0) is None


def test_a_ratio_of_a_sequence_is_the_product_over_its_own_tokens():
    numerator = torch.tensor([[-1.0, -2.0, math.nan], [-30.0, -30.0, -30.0]])
    denominator = torch.tensor([[-1.5, -1.0, math.inf], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    # Not clamped: three tokens at -29 each are -87.
    assert sequence_log_ratio(numerator, denominator, mask).tolist() == [-0.5, -87.0]
    assert sequence_log_ratio(numerator, denominator, mask).dtype == torch.float64


def test_a_nan_at_a_token_that_counts_stays_one():
    bad = torch.tensor([[math.nan, -1.0]])
    found = sequence_log_ratio(bad, torch.zeros(1, 2), torch.tensor([[True, True]]))
    assert found.isnan().item()
    assert trust(found[None]) == [Trust.UNDEFINED]


def test_the_distances_of_one_group():
    group = logs(0.5, 1.0, 1.25, 4.0)
    assert tv_one_sided(group).item() == pytest.approx(0.5 / 4)
    assert tv_two_sided(group).item() == pytest.approx((0.5 + 0 + 0.25 + 3) / 8)
    assert tv_clipped(group, 2.0).item() == pytest.approx((0.5 + 0 + 0.25 + 1) / 8)


@pytest.mark.parametrize("cap", [1.0, 0.5])
def test_a_cap_that_would_count_agreement_as_distance_is_refused(cap):
    with pytest.raises(ValueError, match="above 1"):
        tv_clipped(logs(1.0), cap)


def test_only_the_one_sided_distance_stays_in_its_range_on_long_completions():
    long = torch.tensor([[-900.0, 900.0]], dtype=torch.float64)
    assert tv_one_sided(long).item() == 0.5
    assert tv_two_sided(long).item() == math.inf
    assert tv_clipped(long, 3.0).item() == 0.75


def test_the_estimators_have_the_means_that_are_claimed():
    behavior, policy = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    rewards = np.array([1.0, 0.0, 1.0])
    distance = 0.4
    means = dict.fromkeys(["one", "two", "clipped", "gain", "gain_capped"], 0.0)
    for drawn in itertools.product(range(3), repeat=3):  # every group of three, with its weight
        chance = float(np.prod(behavior[list(drawn)]))
        ratios = logs(*(policy / behavior)[list(drawn)])
        scores = torch.tensor(rewards[list(drawn)])[None]
        means["one"] += chance * tv_one_sided(ratios).item()
        means["two"] += chance * tv_two_sided(ratios).item()
        means["clipped"] += chance * tv_clipped(ratios, 2.0).item()
        means["gain"] += chance * expected_gain(ratios, scores).item()
        means["gain_capped"] += chance * expected_gain(ratios, scores, cap=2.0).item()
    assert means["one"] == pytest.approx(distance)
    assert means["two"] == pytest.approx(distance)
    assert means["clipped"] == pytest.approx((0.4 + 0.2 * 1) / 2)  # the third ratio is 3, cut to 2
    assert means["gain"] == pytest.approx(0.8 - 0.7)
    assert means["gain_capped"] == pytest.approx(0.8 - 0.7 - 0.2)


def test_the_one_sided_distance_sees_what_the_behavior_policy_cannot_sample():
    # alpha gives (1, 0), pi (1/4, 3/4): the ratio is 1/4 at every sample, and TV is 3/4.
    assert tv_one_sided(logs(0.25, 0.25)).item() == 0.75
    assert tv_two_sided(logs(0.25, 0.25)).item() == 0.375


def test_the_divergence_of_a_completion_has_the_exact_mean_and_is_never_negative():
    behavior, policy = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = (behavior * (behavior / policy).log()).sum().item()
    each = sequence_kl(
        policy.log()[:, None], behavior.log()[:, None], torch.ones(3, 1, dtype=torch.bool)
    )
    assert (each >= 0).all()
    assert (behavior.double() * each).sum().item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("kl", "bound"),
    [
        (0.02, 0.1),  # Pinsker: sqrt(0.01)
        (8.0, math.sqrt(1 - math.exp(-8.0))),  # Pinsker would say 2
        (0.0, 0.0),
        (-1e-9, 0.0),
    ],
)
def test_the_bound_from_a_divergence(kl, bound):
    assert tv_pinsker(torch.tensor(kl)).item() == pytest.approx(bound)


def test_the_bound_from_a_divergence_is_one():
    generator = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 5.0):
        first, second = torch.softmax(
            spread * torch.randn(2, 50, 7, generator=generator, dtype=torch.float64), dim=-1
        )
        kl = (first * (first / second).log()).sum(dim=-1)
        assert (tv_pinsker(kl) >= (first - second).abs().sum(dim=-1) / 2).all()


def test_the_distance_of_a_token_is_half_the_sum_over_the_vocabulary():
    first = torch.tensor([[[0.5, 0.3, 0.2]]]).log()
    second = torch.tensor([[[0.2, 0.2, 0.6]]]).log()
    assert token_tv(first, second).item() == pytest.approx(0.4)


def test_the_distances_of_the_tokens_add_up_where_they_count():
    per_token = torch.tensor([[0.25, 0.5, math.nan], [0.5, 0.75, 0.5]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert tv_token_sum(per_token, mask).tolist() == [0.75, 1.75]


def test_the_sum_over_tokens_bounds_the_distance_of_two_tokens():
    # alpha and pi over two tokens; the second depends on the first.
    first = {"alpha": torch.tensor([0.5, 0.5]), "pi": torch.tensor([0.8, 0.2])}
    second = {
        "alpha": torch.tensor([[0.5, 0.5], [0.9, 0.1]]),
        "pi": torch.tensor([[0.6, 0.4], [0.1, 0.9]]),
    }
    joint = {name: first[name][:, None] * second[name] for name in first}
    exact = (joint["pi"] - joint["alpha"]).abs().sum().item() / 2
    at_first = (first["pi"] - first["alpha"]).abs().sum().item() / 2
    at_second = (second["pi"] - second["alpha"]).abs().sum(dim=-1) / 2
    bound = at_first + (first["alpha"] * at_second).sum().item()
    assert exact == pytest.approx(0.23 + 0.07 + 0.13)  # where pi is above alpha
    assert bound == pytest.approx(0.3 + 0.5 * 0.1 + 0.5 * 0.8)
    assert bound >= exact


def test_the_effective_share_of_equal_and_of_lopsided_ratios():
    shares = effective_share(torch.tensor([[0.0] * 4, [900.0, 0.0, 0.0, 0.0]]))
    assert shares.tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((1.0, 1.1, 0.9, 1.0), Trust.RATIO),
        ((30.0, 0.9, 0.9, 0.9), Trust.ONE_SIDED),
        ((0.2, 0.2, 0.2, 0.2), Trust.SATURATED),  # 0.8 > 3/4, though all ratios are equal
    ],
)
def test_what_a_group_still_says(ratios, expected):
    assert trust(logs(*ratios)) == [expected]
