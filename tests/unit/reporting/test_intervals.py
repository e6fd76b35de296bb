import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bapo.reporting.intervals import accuracy_interval, ratio_interval, wilson


def test_wilson_is_the_textbook_interval() -> None:
    # z^2 = 3.8415; for 0 of 10 the upper end is z^2 / (10 + z^2); for 5 of 10 it is
    # (0.5 +- z sqrt(0.025 + z^2 / 400) + z^2 / 20) / (1 + z^2 / 10).
    none = wilson(0, 10)
    assert (none.low, none.high) == (0.0, pytest.approx(0.27753, abs=1e-5))
    half = wilson(5, 10)
    assert (half.low, half.high) == (
        pytest.approx(0.23659, abs=1e-5),
        pytest.approx(0.76341, abs=1e-5),
    )
    assert wilson(10, 10).high == 1.0


def test_prompts_that_are_all_right_or_all_wrong_count_as_one_sample_each() -> None:
    clustered = accuracy_interval(np.array([0.0] * 5 + [1.0] * 5), samples=8)
    assert clustered is not None
    # The effective number is 9 by the variance and is never below the 10 prompts.
    assert clustered.low == pytest.approx(wilson(5, 10).low)
    assert clustered.high == pytest.approx(wilson(5, 10).high)


def test_equal_prompts_do_not_count_more_than_all_their_samples() -> None:
    spread_out = accuracy_interval(np.array([0.4, 0.6] * 5), samples=4)
    assert spread_out is not None
    # p (1 - p) / SE^2 = 0.25 / (0.01111 / 10) = 225, but there are only 40 samples.
    assert spread_out.low == pytest.approx(wilson(20, 40).low)


def test_a_base_that_is_always_wrong_still_has_an_interval() -> None:
    interval = accuracy_interval(np.zeros(50), samples=4)
    assert interval is not None
    assert interval.low == 0.0
    assert interval.high == pytest.approx(3.8415 / 53.8415, abs=1e-4)


def test_one_prompt_has_no_interval() -> None:
    assert accuracy_interval(np.array([0.5]), samples=4) is None
    assert ratio_interval(np.array([0.5]), np.array([1.0])) is None


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30))
def test_the_interval_contains_the_mean_and_stays_in_the_unit_interval(counts: list[int]) -> None:
    rates = np.array(counts) / 4
    interval = accuracy_interval(rates, samples=4)
    assert interval is not None
    assert 0 <= interval.low <= rates.mean() + 1e-12
    assert rates.mean() - 1e-12 <= interval.high <= 1


def test_the_ratio_is_paired_so_a_common_factor_has_no_spread() -> None:
    before = np.array([0.1, 0.2, 0.3, 0.4])
    interval = ratio_interval(before, 2 * before)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_the_ratio_interval_is_the_same_each_time_and_holds_the_ratio() -> None:
    generator = np.random.default_rng(3)
    before, after = generator.binomial(8, 0.2, 64) / 8, generator.binomial(8, 0.4, 64) / 8
    first, second = ratio_interval(before, after), ratio_interval(before, after)
    assert first is not None
    assert first == second
    assert first.low < after.mean() / before.mean() < first.high


def test_there_is_no_ratio_interval_where_the_base_may_have_nothing_right() -> None:
    assert ratio_interval(np.array([0.0, 0.0, 0.5]), np.array([0.5, 0.5, 0.5])) is None
