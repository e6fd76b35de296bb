import pytest

from bapo.adaptation.filters import is_informative, reject_fresh, reject_retried
from bapo.adaptation.records import GroupOutcome
from tests.builders import make_group


@pytest.mark.parametrize(
    ("pattern", "informative"),
    [
        ("00", False),
        ("10", True),
        ("11", False),
        ("0000000", False),
        ("1000000", True),
        ("1111110", True),
        ("1111111", False),
        ("1", False),
        ("0", False),
        ("10t1", False),
        ("ieti", False),
    ],
)
def test_a_group_is_informative_if_verified_and_mixed_at_every_size(pattern, informative):
    assert is_informative(make_group("a", pattern)) is informative


def test_the_filter_reads_correctness_and_not_the_shaped_score():
    shaped = make_group("a", "0000", scores=[0.1, 0.0, 0.4, 0.2])
    assert reject_fresh(shaped, filter_fresh=True) is GroupOutcome.ALL_WRONG


def test_without_the_filter_only_an_unverified_group_is_rejected():
    assert reject_fresh(make_group("a", "0000"), filter_fresh=False) is None
    assert reject_fresh(make_group("a", "1111"), filter_fresh=False) is None
    assert reject_fresh(make_group("a", "11e1"), filter_fresh=False) is GroupOutcome.UNVERIFIED


@pytest.mark.parametrize(
    ("pattern", "outcome"),
    [
        ("00000000", GroupOutcome.ALL_WRONG),
        ("10000000", GroupOutcome.NOT_ACCEPTED),  # 1/8 is not above c1 = 1/8
        ("11000000", None),
        ("11111110", None),
        ("11111111", GroupOutcome.ALL_RIGHT),
        ("1111111i", GroupOutcome.UNVERIFIED),
    ],
)
def test_above_c1_accepts_strictly_between_c1_and_one(pattern, outcome):
    group = make_group("a", pattern)
    rejected = reject_retried(group, rule="above_c1", hard_threshold=0.125, previous_rate=0.0)
    assert rejected is outcome


@pytest.mark.parametrize(
    ("pattern", "previous_rate", "outcome"),
    [
        ("00000000", 0.0, GroupOutcome.ALL_WRONG),
        ("10000000", 0.0, None),  # below c1, but better than it was
        ("10000000", 0.125, GroupOutcome.NOT_ACCEPTED),
        ("11000000", 0.125, None),
        ("11111111", 0.0, GroupOutcome.ALL_RIGHT),
    ],
)
def test_improved_accepts_what_beats_the_rate_the_prompt_had(pattern, previous_rate, outcome):
    group = make_group("a", pattern)
    rejected = reject_retried(
        group, rule="improved", hard_threshold=0.125, previous_rate=previous_rate
    )
    assert rejected is outcome
