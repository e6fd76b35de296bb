"""How measured distances steer delay, reuse window and truncation, and what is refused."""

import pytest

from bapo.adaptation import Adaptation, GroupOutcome, StepDistances
from bapo.adaptation.staleness import StalenessControl
from bapo.config import AdaptationSettings
from bapo.types import Source
from tests.builders import make_group, through_disk

FAR, NEAR, BETWEEN = 0.3, 0.05, 0.15


def control(*, window=3, on=True, delay=6, delayed=True):
    return StalenessControl(
        AdaptationSettings(
            adaptive_staleness=on,
            target_tv=0.2,
            reuse_window=window,
            behavior_sync_every=delay,
            delay_behavior=delayed,
            staleness_widest=2.0,
        )
    )


def synced(steered, distances):
    """The steps that sync the behavior policy, of steps with these distances of fresh groups.

    A step whose behavior policy is the current one measures no fresh distance.
    """
    steps, at = [], 0
    for step, distance in enumerate(distances, start=1):
        if steered.sync_due:
            steps.append(step)
            at = step
        fresh = distance if step > at else None
        steered.observe(step, StepDistances(fresh=fresh, moved=distance))
    return steps


def test_fresh_groups_that_are_too_far_bring_a_sync_and_a_delay_of_the_age_they_had():
    steered = control()
    # Synced at step 1; at step 4 the samples are three steps old and too far.
    assert synced(steered, [BETWEEN, BETWEEN, BETWEEN, FAR, BETWEEN]) == [1, 5]
    assert steered.delay == 3


def test_a_delay_that_was_narrowed_is_kept_to():
    steered = control()
    distances = [BETWEEN, BETWEEN, FAR, *[BETWEEN] * 9]
    assert synced(steered, distances) == [1, 4, 6, 8, 10, 12]
    assert steered.delay == 2


def test_a_delay_at_whose_end_the_samples_are_near_goes_on_half_as_long_up_to_the_widest():
    steered = control()
    # At step 6 it becomes 9, at step 9 it becomes 12, which is twice what was set.
    assert synced(steered, [NEAR] * 40) == [1, 13, 25, 37]
    assert steered.delay == 12


def test_a_delay_of_one_is_left_again_where_a_step_goes_less_than_half_of_the_target():
    steered = control()
    assert synced(steered, [*[FAR] * 4, BETWEEN, NEAR, BETWEEN, BETWEEN]) == [1, 3, 4, 5, 6, 8]


@pytest.mark.parametrize("on", [True, False])
def test_an_on_policy_recipe_stays_on_policy(on):
    steered = control(on=on, delayed=False)
    steered.observe(1, StepDistances(moved=NEAR))
    assert steered.sync_due is not False
    assert steered.delay == 1


@pytest.mark.parametrize(
    ("reused", "windows"),
    [
        ([FAR, FAR, FAR], [2, 1, 1]),  # never below one step
        ([NEAR, NEAR, NEAR, NEAR], [4, 5, 6, 6]),  # never above twice the setting
        ([FAR, BETWEEN, BETWEEN], [2, 2, 2]),
        ([FAR, None], [2, 3]),  # nothing was reused: try again
    ],
)
def test_the_window_follows_the_distance_of_reused_groups(reused, windows):
    steered = control()
    found = []
    for step, distance in enumerate(reused, start=1):
        steered.observe(step, StepDistances(reused=distance))
        found.append(steered.window)
    assert found == windows


@pytest.mark.parametrize(
    ("distances", "scales"),
    [
        ([(FAR, None)], [0.8]),
        ([(NEAR, FAR)], [0.8]),  # the furthest decides
        ([(NEAR, None)], [1.25]),
        ([(BETWEEN, NEAR), (None, None)], [1.0, 1.0]),
        ([(FAR, None)] * 5, [0.8, 0.64, 0.512, 0.5, 0.5]),  # never below the widest's inverse
        ([(NEAR, NEAR)] * 5, [1.25, 1.5625, 1.953125, 2.0, 2.0]),
    ],
)
def test_the_truncation_is_tightened_where_samples_are_far_and_loosened_where_near(
    distances, scales
):
    steered = control()
    found = []
    for step, (fresh, reused) in enumerate(distances, start=1):
        steered.observe(step, StepDistances(fresh=fresh, reused=reused))
        found.append(steered.cap_scale)
    assert found == pytest.approx(scales)


def test_without_the_setting_nothing_is_steered():
    steered = control(on=False)
    steered.observe(1, StepDistances(fresh=1.0, reused=1.0, moved=1.0))
    assert (steered.delay, steered.window, steered.cap_scale) == (6, 3, 1.0)
    assert steered.sync_due is None  # every v steps, as set


@pytest.mark.parametrize("on", [True, False])
def test_a_step_that_age_stands_in_the_way_of_gets_its_sync_in_any_case(on):
    steered = control(on=on)
    steered.observe(1, StepDistances(needs_sync=True))
    assert steered.sync_due is True
    steered.observe(2, StepDistances())
    assert steered.sync_due is (False if on else None)


def test_the_control_goes_on_from_a_checkpoint():
    distances = [NEAR, BETWEEN, FAR, NEAR, FAR, NEAR, NEAR, BETWEEN, FAR, NEAR, NEAR, NEAR]
    whole, first, second = control(), control(), control()
    for step, distance in enumerate(distances[:6], start=1):
        first.observe(step, StepDistances(distance, distance, distance))
    second.load_state_dict(through_disk(first.state_dict()))
    chosen = []
    for step, distance in enumerate(distances, start=1):
        seen = StepDistances(distance, distance, distance)
        whole.observe(step, seen)
        if step > 6:
            second.observe(step, seen)
            chosen.append((whole.delay, whole.window, whole.cap_scale, whole.sync_due))
            assert chosen[-1] == (
                second.delay,
                second.window,
                second.cap_scale,
                second.sync_due,
            )
    assert len(set(chosen)) > 3


def test_a_resumed_run_keeps_to_the_limits_that_hold_now():
    wide = control(window=5, delay=20)
    for step in range(1, 60):
        wide.observe(step, StepDistances(fresh=NEAR, reused=NEAR, moved=NEAR))
    assert (wide.delay, wide.window, wide.cap_scale) == (40, 10, 2.0)
    narrow, off = control(window=2), control(on=False)
    narrow.load_state_dict(wide.state_dict())
    off.load_state_dict(wide.state_dict())
    assert (narrow.delay, narrow.window, narrow.cap_scale) == (12, 4, 2.0)
    assert (off.delay, off.window, off.cap_scale) == (6, 3, 1.0)


def outcomes(composition):
    return [(fate.prompt_id, fate.source, fate.outcome) for fate in composition.fates]


def adaptation(groups, **settings):
    values = {"reuse_low_range": (0.25, 0.25), "reuse_high_range": (0.75, 0.75), **settings}
    return Adaptation(AdaptationSettings(**values), batch_groups=groups, seed=0)


def test_a_refused_fresh_group_makes_room_for_the_next_fresh_one():
    first, second, third = (make_group(name, 0.5) for name in "abc")
    state = adaptation(2)
    composition = state.compose(1, [first, second, third], [], [first])
    assert outcomes(composition) == [
        ("a", Source.FRESH, GroupOutcome.REFUSED),
        ("b", Source.FRESH, GroupOutcome.TRAINED),
        ("c", Source.FRESH, GroupOutcome.TRAINED),
    ]


def test_a_refused_reused_group_is_counted_and_another_is_reused():
    state = adaptation(1)
    old = [make_group(name, 0.5) for name in "ab"]
    state.observe(1, old, [])
    taken = state.compose(2, [], []).batch.entries[0].group
    other = next(group for group in old if group is not taken)
    composition = state.compose(2, [], [], [taken])
    assert [entry.group for entry in composition.batch.entries] == [other]
    assert outcomes(composition) == [
        (taken.prompt_id, Source.REUSED, GroupOutcome.REFUSED),
        (other.prompt_id, Source.REUSED, GroupOutcome.TRAINED),
    ]


def test_a_group_that_has_another_reason_against_it_keeps_it():
    wrong = make_group("a", 0.0)
    composition = adaptation(1).compose(1, [wrong], [], [wrong])
    assert composition.fates[0].outcome is GroupOutcome.ALL_WRONG


def test_a_shorter_window_holds_for_the_next_batch():
    state = adaptation(4, adaptive_staleness=True, target_tv=0.2, reuse_window=2)
    state.observe(1, [make_group("a", 0.5)], [])
    state.observe(2, [make_group("b", 0.5)], [])
    state.observe_distances(2, StepDistances(reused=FAR))
    reused = state.compose(3, [], []).batch.entries
    assert [entry.group.prompt_id for entry in reused] == ["b"]
    assert state.metrics()["reuse_window"] == 1
    assert state.metrics()["reuse_buffer_size"] == 2  # kept, for when the window grows again


def test_a_wider_window_reaches_groups_that_the_set_one_has_let_go():
    state = adaptation(4, adaptive_staleness=True, target_tv=0.2, reuse_window=1)
    state.observe(1, [make_group("a", 0.5)], [])
    state.observe(2, [make_group("b", 0.5)], [])
    for near, names in [(False, ["b"]), (True, ["a", "b"])]:
        state.observe_distances(2, StepDistances(reused=NEAR if near else BETWEEN))
        reused = state.compose(3, [], []).batch.entries
        assert sorted(entry.group.prompt_id for entry in reused) == names
