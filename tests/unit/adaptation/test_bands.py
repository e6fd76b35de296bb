import json

import pytest

from bapo.adaptation import Band, PolicyStrength, reuse_band
from bapo.config import AdaptationSettings


@pytest.mark.parametrize(
    ("strength", "low", "high"),
    [(0.0, 0.0, 0.25), (0.2, 0.075, 0.3), (0.5, 0.1875, 0.375), (1.0, 0.375, 0.5)],
)
def test_the_rising_band_is_the_papers(strength, low, high):
    band = reuse_band(AdaptationSettings(), strength)
    assert (band.low, band.high) == pytest.approx((low, high), abs=1e-12)


def test_the_fixed_band_ignores_the_strength():
    settings = AdaptationSettings(band="fixed")
    assert [reuse_band(settings, r) for r in (0.0, 0.6, 1.0)] == [Band(0.125, 0.25)] * 3


@pytest.mark.parametrize(
    ("strength", "low", "high"),
    [
        (0.0, 0.5, 0.625),
        (0.2, 0.5, 0.625),
        (0.35, 0.40625, 0.53125),  # a quarter of the way
        (0.5, 0.3125, 0.4375),  # half of the way
        (0.8, 0.125, 0.25),
        (1.0, 0.125, 0.25),
    ],
)
def test_the_falling_band_is_the_released_one(strength, low, high):
    band = reuse_band(AdaptationSettings(band="falling"), strength)
    assert (band.low, band.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "group_size", "expected"),
    [
        (0.0, 0.25, 2, (0.0, 0.5)),  # 1/2 is the only rate of two
        (0.1, 0.3, 3, (0.1, 1 / 3)),  # 1/3 is nearer than 2/3
        (0.6, 0.65, 4, (0.5, 0.65)),  # 1/2 lies 0.1 below, 3/4 as far above: the lower one
        (0.125, 0.25, 8, (0.125, 0.25)),  # holds 1/8 and 2/8: stays
        (0.3, 0.5, 2, (0.3, 0.5)),  # holds 1/2 on its bound: stays
    ],
)
def test_a_band_that_no_rate_of_a_group_can_hit_is_widened_to_the_nearest(
    low, high, group_size, expected
):
    band = Band(low, high).widened(group_size)
    assert (band.low, band.high) == expected


@pytest.mark.parametrize("strength", [step / 40 for step in range(41)])
def test_the_papers_band_is_wide_enough_for_groups_of_eight_at_every_strength(strength):
    band = reuse_band(AdaptationSettings(), strength)
    assert band.widened(8) == band


def test_a_band_holds_its_bounds_and_nothing_outside():
    band = Band(0.125, 0.25)
    assert [band.contains(k / 8) for k in range(5)] == [False, True, True, False, False]


def test_a_rate_on_a_computed_bound_is_inside_in_spite_of_rounding():
    settings = AdaptationSettings(reuse_low_range=(0.2, 0.5), reuse_high_range=(0.9, 0.9))
    band = reuse_band(settings, 1 / 3)
    assert band.low > 3 / 10  # the rounding error that the tolerance is for
    assert band.contains(3 / 10)
    assert not band.contains(2 / 10)


def test_the_first_observation_sets_the_strength_and_later_ones_move_it():
    strength = PolicyStrength(half_life=1.0)
    assert strength.value == 0.0
    strength.observe([0.5, 0.25, 0.75, 0.5])
    assert strength.value == 0.5
    strength.observe([1.0, 0.0, 0.0, 0.0])
    assert strength.value == 0.375  # half of 0.5 and half of 0.25
    strength.observe([1.0])
    assert strength.value == 0.6875


def test_an_old_value_counts_half_after_the_half_life():
    strength = PolicyStrength(half_life=5.0)
    strength.observe([1.0])
    for _ in range(5):
        strength.observe([0.0])
    assert strength.value == pytest.approx(0.5)


def test_a_step_without_groups_leaves_the_strength_alone():
    strength = PolicyStrength(half_life=2.0)
    strength.observe([0.25])
    strength.observe([])
    assert strength.value == 0.25


def test_a_zero_observation_is_not_taken_for_none():
    strength = PolicyStrength(half_life=1.0)
    strength.observe([0.0])
    strength.observe([1.0])
    assert strength.value == 0.5


@pytest.mark.parametrize("observed", [[], [0.1, 0.2, 1 / 3]])
def test_the_strength_survives_json_exactly(observed):
    before, after = PolicyStrength(5.0), PolicyStrength(5.0)
    for rate in observed:
        before.observe([rate])
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    before.observe([0.9])
    after.observe([0.9])
    assert after.value == before.value
