from collections import Counter

import pytest

from bapo.adaptation import Adaptation, Band
from bapo.adaptation import BufferEventKind as Kind
from bapo.adaptation import GroupOutcome as Outcome
from bapo.config import AdaptationSettings
from bapo.types import Source
from tests.builders import make_group, through_disk

WRONG, ONE_OF_8, TWO_OF_8, HALF, RIGHT = (k * "1" + (8 - k) * "0" for k in (0, 1, 2, 4, 8))
ALL_RATES = {"band": "fixed", "reuse_fixed": (0.0, 1.0)}


def make_adaptation(batch_groups=4, seed=0, **settings):
    return Adaptation(AdaptationSettings(**settings), batch_groups=batch_groups, seed=seed)


def batch_of(composition):
    return [(entry.group.prompt_id, entry.source.value) for entry in composition.batch.entries]


def outcomes(composition):
    return [(fate.prompt_id, fate.outcome) for fate in composition.fates]


def hard_ids(adaptation, step=5):
    return [prompt.prompt_id for prompt in adaptation.prompts_to_retry(step)]


def test_fresh_groups_are_filtered_and_taken_in_order_up_to_b():
    fresh = [
        make_group("a", WRONG, version=7),
        make_group("b", HALF),
        make_group("c", RIGHT),
        make_group("d", "1111111t"),
        make_group("e", ONE_OF_8),
        make_group("f", HALF),
    ]
    composition = make_adaptation(batch_groups=2).compose(1, fresh, [])
    assert batch_of(composition) == [("b", "fresh"), ("e", "fresh")]
    assert composition.batch.entries[0].group is fresh[1]
    assert composition.batch.step == 1
    assert outcomes(composition) == [
        ("a", Outcome.ALL_WRONG),
        ("b", Outcome.TRAINED),
        ("c", Outcome.ALL_RIGHT),
        ("d", Outcome.UNVERIFIED),
        ("e", Outcome.TRAINED),
        ("f", Outcome.SURPLUS),
    ]
    assert [fate.correctness_rate for fate in composition.fates] == [0, 0.5, 1, None, 0.125, 0.5]
    assert composition.fates[0].policy_version == 7


def test_without_filter_and_buffers_every_verified_group_enters_as_in_grpo():
    adaptation = make_adaptation(3, filter_fresh=False, retry=False, reuse=False)
    fresh = [make_group("a", WRONG), make_group("b", RIGHT), make_group("c", "11e")]
    composition = adaptation.compose(1, fresh, [])
    assert batch_of(composition) == [("a", "fresh"), ("b", "fresh")]
    assert adaptation.missing_fresh([]) == 0
    assert adaptation.observe(1, fresh, []) == ()
    assert adaptation.metrics()["hard_buffer_size"] == 0
    assert adaptation.metrics()["reuse_buffer_size"] == 0


def test_missing_fresh_counts_distinct_informative_prompts():
    adaptation = make_adaptation(batch_groups=3)
    fresh = [make_group("a", HALF), make_group("a", HALF), make_group("b", WRONG)]
    assert adaptation.missing_fresh([]) == 3
    assert adaptation.missing_fresh(fresh) == 2
    assert adaptation.missing_fresh([*fresh, *(make_group(x, HALF) for x in "cdef")]) == 0


def test_a_prompt_drawn_twice_enters_once():
    composition = make_adaptation().compose(1, [make_group("a", HALF), make_group("a", HALF)], [])
    assert outcomes(composition) == [("a", Outcome.TRAINED), ("a", Outcome.DUPLICATE)]


def test_hard_prompts_are_asked_again_every_m_steps_oldest_first():
    adaptation = make_adaptation(retry_every=2)
    adaptation.observe(1, [make_group("b", WRONG), make_group("a", ONE_OF_8)], [])
    assert [hard_ids(adaptation, step) for step in (1, 2, 3, 4)] == [[], ["b", "a"]] * 2
    assert hard_ids(make_adaptation(retry=False)) == []


def test_the_hard_buffer_holds_b_prompts_unless_told_otherwise():
    fresh = [make_group(name, WRONG) for name in "abcde"]
    for settings, expected in [({}, ["d", "e"]), ({"hard_capacity": 3}, ["c", "d", "e"])]:
        adaptation = make_adaptation(batch_groups=2, **settings)
        adaptation.observe(1, fresh, [])
        assert hard_ids(adaptation) == expected
        assert adaptation.metrics()["hard_buffer_evicted"] == 5 - len(expected)


def test_retried_groups_come_after_fresh_and_before_reused_ones():
    adaptation = make_adaptation(batch_groups=3, **ALL_RATES)
    adaptation.observe(4, [make_group("h", WRONG), make_group("r", HALF)], [])
    composition = adaptation.compose(5, [make_group("f", HALF)], [make_group("h", TWO_OF_8)])
    assert batch_of(composition) == [("f", "fresh"), ("h", "retried"), ("r", "reused")]
    assert [fate.source for fate in composition.fates] == [
        Source.FRESH,
        Source.RETRIED,
        Source.REUSED,
    ]


def test_a_full_batch_leaves_retried_groups_as_surplus_and_takes_no_reused_ones():
    adaptation = make_adaptation(batch_groups=1, hard_capacity=9, **ALL_RATES)
    adaptation.observe(4, [make_group("h", WRONG), make_group("r", HALF)], [])
    composition = adaptation.compose(5, [make_group("f", HALF)], [make_group("h", TWO_OF_8)])
    assert outcomes(composition) == [("f", Outcome.TRAINED), ("h", Outcome.SURPLUS)]


def test_a_prompt_that_is_fresh_and_retried_stands_in_the_batch_once():
    adaptation = make_adaptation(**ALL_RATES)
    adaptation.observe(4, [make_group("a", ONE_OF_8)], [])
    composition = adaptation.compose(5, [make_group("a", HALF)], [make_group("a", TWO_OF_8)])
    assert outcomes(composition) == [("a", Outcome.TRAINED), ("a", Outcome.DUPLICATE)]


@pytest.mark.parametrize(
    ("rule", "one_of_8"),
    [("above_c1", Outcome.NOT_ACCEPTED), ("improved", Outcome.TRAINED)],
)
def test_retry_accept_decides_about_a_group_at_c1(rule, one_of_8):
    adaptation = make_adaptation(retry_accept=rule, reuse=False)
    adaptation.observe(4, [make_group(name, WRONG) for name in "abcd"], [])
    retried = [
        make_group("a", ONE_OF_8),
        make_group("b", TWO_OF_8),
        make_group("c", WRONG),
        make_group("d", RIGHT),
    ]
    composition = adaptation.compose(5, [], retried)
    assert outcomes(composition) == [
        ("a", one_of_8),
        ("b", Outcome.TRAINED),
        ("c", Outcome.ALL_WRONG),
        ("d", Outcome.ALL_RIGHT),
    ]
    adaptation.observe(5, [], retried)
    assert hard_ids(adaptation, 10) == ["a", "c"]  # under both rules only mu > c1 leaves


def test_improved_compares_with_the_last_rate_the_prompt_showed():
    adaptation = make_adaptation(retry_accept="improved", reuse=False)
    adaptation.observe(4, [make_group("a", WRONG)], [])
    again = [make_group("a", ONE_OF_8)]
    assert outcomes(adaptation.compose(5, [], again)) == [("a", Outcome.TRAINED)]
    adaptation.observe(5, [], again)
    assert outcomes(adaptation.compose(10, [], again)) == [("a", Outcome.NOT_ACCEPTED)]


def test_reused_groups_lie_in_the_band_of_the_step():
    adaptation = make_adaptation(batch_groups=8, band="fixed")
    groups = [make_group(f"{k}/8", k * "1" + (8 - k) * "0") for k in range(9)]
    adaptation.observe(1, groups, [])
    composition = adaptation.compose(2, [], [])
    assert sorted(batch_of(composition)) == [("1/8", "reused"), ("2/8", "reused")]
    assert composition.band == Band(0.125, 0.25)


def test_a_band_down_to_zero_still_reuses_no_homogeneous_group():
    adaptation = make_adaptation(**ALL_RATES)
    adaptation.observe(1, [make_group("a", WRONG), make_group("b", RIGHT)], [])
    assert batch_of(adaptation.compose(2, [], [])) == []


def test_the_band_of_a_step_follows_the_steps_before_it_and_not_its_own_groups():
    adaptation = make_adaptation(batch_groups=4, band_half_life=1.0)
    assert adaptation.compose(1, [], []).band == Band(0.0, 0.25)
    fresh = [make_group("a", HALF)]
    assert adaptation.compose(1, fresh, []).band == Band(0.0, 0.25)
    adaptation.observe(1, fresh, [])
    assert adaptation.compose(2, [], []).band == Band(0.1875, 0.375)
    adaptation.observe(2, [make_group("b", RIGHT)], [])  # r = 0.75
    assert adaptation.compose(3, [], []).band == Band(0.28125, 0.4375)
    assert adaptation.metrics()["policy_strength"] == 0.75


def test_only_verified_fresh_groups_move_the_strength():
    adaptation = make_adaptation(band_half_life=1.0)
    adaptation.observe(1, [make_group("a", WRONG), make_group("b", "1111111e")], [])
    assert adaptation.metrics()["policy_strength"] == 0.0
    adaptation.observe(5, [], [make_group("a", RIGHT)])
    assert adaptation.metrics()["policy_strength"] == 0.0
    adaptation.observe(6, [make_group("c", RIGHT)], [])
    assert adaptation.metrics()["policy_strength"] == 0.5


def test_of_several_reusable_groups_of_a_prompt_one_is_taken():
    adaptation = make_adaptation(batch_groups=4, **ALL_RATES)
    for step in (1, 2, 3):
        adaptation.observe(step, [make_group("a", HALF, step=step), make_group("b", HALF)], [])
    composition = adaptation.compose(4, [make_group("b", HALF)], [])
    assert batch_of(composition) == [("b", "fresh"), ("a", "reused")]
    assert len(composition.fates) == 2


def test_a_refused_group_is_known_again_after_a_checkpoint():
    original = make_adaptation(batch_groups=2, **ALL_RATES)
    original.observe(1, [make_group(name, HALF) for name in "abcd"], [])
    adaptation = make_adaptation(batch_groups=2, **ALL_RATES)
    adaptation.load_state_dict(through_disk(original.state_dict()))
    far, near = (entry.group for entry in adaptation.compose(2, [], []).batch.entries)
    again = adaptation.compose(2, [], [], refused={far})
    assert outcomes(again)[:2] == [
        (far.prompt_id, Outcome.REFUSED),
        (near.prompt_id, Outcome.TRAINED),
    ]
    assert again.batch.entries[0].group is near
    assert far.prompt_id not in dict(batch_of(again))


def test_every_reusable_group_is_drawn_equally_often():
    adaptation = make_adaptation(batch_groups=2, reuse_window=10_000, **ALL_RATES)
    adaptation.observe(1, [make_group(name, HALF) for name in "abcde"], [])
    drawn = Counter(
        name for step in range(2, 2002) for name, _ in batch_of(adaptation.compose(step, [], []))
    )
    assert sum(drawn.values()) == 4000
    # 800 expected each, standard deviation sqrt(2000 * 0.4 * 0.6) = 22; five of them
    assert all(690 < count < 910 for count in drawn.values())


def test_the_draw_depends_on_seed_and_step_alone():
    def draw(seed, step, calls=1):
        adaptation = make_adaptation(batch_groups=3, seed=seed, reuse_window=50, **ALL_RATES)
        adaptation.observe(1, [make_group(f"p{i}", HALF) for i in range(30)], [])
        return [batch_of(adaptation.compose(step, [], [])) for _ in range(calls)]

    assert draw(0, 2, calls=2) == draw(0, 2) * 2
    assert draw(0, 2) != draw(0, 3)
    assert draw(0, 2) != draw(1, 2)


def test_a_retried_group_enters_the_reuse_buffer_only_if_told_so():
    for reuse_retried, expected in [(False, []), (True, [("h", "reused")])]:
        adaptation = make_adaptation(reuse_retried=reuse_retried, **ALL_RATES)
        adaptation.observe(4, [make_group("h", WRONG)], [])
        adaptation.observe(5, [], [make_group("h", TWO_OF_8)])
        assert batch_of(adaptation.compose(6, [], [])) == expected


def test_a_surplus_group_can_be_reused_in_the_next_step():
    adaptation = make_adaptation(batch_groups=1, **ALL_RATES)
    fresh = [make_group("a", HALF), make_group("b", HALF)]
    assert outcomes(adaptation.compose(1, fresh, []))[1] == ("b", Outcome.SURPLUS)
    adaptation.observe(1, fresh, [])
    assert adaptation.metrics()["reuse_buffer_size"] == 2


def test_a_short_batch_is_trained_on_or_skipped_as_the_setting_says():
    for when_short, expected, outcome in [
        ("train", [("f", "fresh"), ("r", "reused")], Outcome.TRAINED),
        ("skip", [], Outcome.BATCH_SKIPPED),
    ]:
        adaptation = make_adaptation(batch_groups=3, when_short=when_short, **ALL_RATES)
        adaptation.observe(1, [make_group("r", HALF)], [])
        composition = adaptation.compose(2, [make_group("f", HALF), make_group("w", WRONG)], [])
        assert batch_of(composition) == expected
        assert outcomes(composition) == [("f", outcome), ("w", Outcome.ALL_WRONG), ("r", outcome)]


def test_a_full_batch_is_not_skipped():
    adaptation = make_adaptation(batch_groups=1, when_short="skip")
    assert len(adaptation.compose(1, [make_group("a", HALF)], []).batch.entries) == 1


def test_a_step_without_any_usable_group_gives_an_empty_batch():
    composition = make_adaptation().compose(1, [make_group("a", WRONG)], [])
    assert composition.batch.entries == ()


def test_an_unverified_group_changes_nothing():
    adaptation = make_adaptation(max_retries=1, band_half_life=1.0)
    adaptation.observe(1, [make_group("a", WRONG), make_group("b", WRONG)], [])
    before = adaptation.state_dict()
    retried = [make_group("a", "0000000t")]
    fresh = [make_group("b", "1111111e"), make_group("c", "0000000i")]
    assert outcomes(adaptation.compose(5, fresh, retried)) == [
        ("b", Outcome.UNVERIFIED),
        ("c", Outcome.UNVERIFIED),
        ("a", Outcome.UNVERIFIED),
    ]
    assert adaptation.observe(5, fresh, retried) == ()
    after = adaptation.state_dict()
    assert after["hard_buffer"] == before["hard_buffer"]
    assert after["policy_strength"] == before["policy_strength"]
    assert adaptation.metrics()["reuse_buffer_size"] == 0


def test_retrying_what_was_not_offered_is_refused():
    with pytest.raises(ValueError, match="'x' is not in the hard buffer"):
        make_adaptation().compose(5, [], [make_group("x", HALF)])


def test_six_steps_by_hand():
    """B = 2, retries every 3 steps, window 2, every rate reusable, one retry until retirement."""
    adaptation = make_adaptation(
        batch_groups=2, retry_every=3, reuse_window=2, max_retries=1, **ALL_RATES
    )

    def play(step, fresh, retried=()):
        fresh = [make_group(name, pattern) for name, pattern in fresh]
        retried = [make_group(name, pattern) for name, pattern in retried]
        assert hard_ids(adaptation, step) == [group.prompt_id for group in retried]
        composition = adaptation.compose(step, fresh, retried)
        events = adaptation.observe(step, fresh, retried)
        return batch_of(composition), [(event.event, event.prompt_id) for event in events]

    assert play(1, [("a", WRONG), ("b", HALF)]) == (
        [("b", "fresh")],
        [(Kind.HARD_ENTERED, "a"), (Kind.REUSE_ENTERED, "b")],
    )
    assert play(2, [("c", ONE_OF_8), ("d", RIGHT)]) == (
        [("c", "fresh"), ("b", "reused")],
        [(Kind.HARD_ENTERED, "c"), (Kind.REUSE_ENTERED, "c")],
    )
    # a is solvable now; c failed, but had a right answer, and stays; b's window is over
    assert play(3, [("e", HALF), ("f", RIGHT)], [("a", TWO_OF_8), ("c", WRONG)]) == (
        [("e", "fresh"), ("a", "retried")],
        [
            (Kind.HARD_LEFT, "a"),
            (Kind.RETRY_FAILED, "c"),
            (Kind.REUSE_EXPIRED, "b"),
            (Kind.REUSE_ENTERED, "e"),
        ],
    )
    batch, events = play(4, [("g", WRONG), ("h", WRONG)])
    assert sorted(batch) == [("c", "reused"), ("e", "reused")]
    assert events == [
        (Kind.HARD_ENTERED, "g"),
        (Kind.HARD_ENTERED, "h"),
        (Kind.HARD_EVICTED, "c"),
        (Kind.REUSE_EXPIRED, "c"),
    ]
    assert play(5, [("g", HALF), ("h", WRONG)]) == (
        [("g", "fresh"), ("e", "reused")],
        [
            (Kind.HARD_LEFT, "g"),
            (Kind.HARD_MOVED, "h"),
            (Kind.REUSE_EXPIRED, "e"),
            (Kind.REUSE_ENTERED, "g"),
        ],
    )
    assert play(6, [("i", RIGHT), ("j", RIGHT)], [("h", WRONG)]) == (
        [("g", "reused")],
        [(Kind.RETRY_FAILED, "h"), (Kind.HARD_RETIRED, "h")],
    )
    assert [suspect.prompt_id for suspect in adaptation.suspects] == ["h"]
    assert adaptation.metrics()["prompts_retired"] == 1
    assert adaptation.metrics()["hard_buffer_size"] == 0
