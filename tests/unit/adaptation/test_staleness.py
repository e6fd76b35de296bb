"""How measured distances narrow the delay and the reuse window, and what is refused."""

import pytest

from bapo.adaptation import Adaptation, GroupOutcome
from bapo.adaptation.staleness import StalenessControl
from bapo.config import AdaptationSettings
from bapo.types import Source
from tests.builders import make_group, through_disk

FAR, NEAR, BETWEEN = 0.3, 0.05, 0.15


def control(*, window=3, on=True):
    return StalenessControl(
        AdaptationSettings(adaptive_staleness=on, target_tv=0.2, reuse_window=window)
    )


@pytest.mark.parametrize(
    ("reused", "windows"),
    [
        ([FAR, FAR, FAR], [2, 1, 1]),  # never below one step
        ([FAR, NEAR, NEAR], [2, 3, 3]),  # never above the setting
        ([FAR, BETWEEN, BETWEEN], [2, 2, 2]),
        ([FAR, None], [2, 3]),  # nothing was reused: try again
    ],
)
def test_the_window_follows_the_distance_of_reused_groups(reused, windows):
    steered = control()
    found = []
    for distance in reused:
        steered.observe(None, distance)
        found.append(steered.window)
    assert found == windows


@pytest.mark.parametrize(
    ("fresh", "early"), [(FAR, True), (0.2, False), (NEAR, False), (None, False)]
)
def test_the_behavior_policy_is_synced_early_where_fresh_groups_are_too_far(fresh, early):
    steered = control()
    steered.observe(fresh, None)
    assert steered.sync_early is early


def test_a_distance_within_the_target_takes_the_early_sync_back():
    steered = control()
    steered.observe(FAR, None)
    steered.observe(NEAR, None)
    assert not steered.sync_early


def test_without_the_setting_nothing_is_steered():
    steered = control(on=False)
    steered.observe(1.0, 1.0)
    assert (steered.window, steered.sync_early) == (3, False)


def test_the_control_goes_on_from_a_checkpoint():
    steered, restored = control(), control()
    steered.observe(FAR, FAR)
    restored.load_state_dict(through_disk(steered.state_dict()))
    assert (restored.window, restored.sync_early) == (2, True)


def test_a_resumed_run_with_a_smaller_window_keeps_to_it():
    restored = control(window=2)
    restored.load_state_dict(control(window=5).state_dict())
    assert restored.window == 2


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
    state.observe_distances(None, FAR)
    reused = state.compose(3, [], []).batch.entries
    assert [entry.group.prompt_id for entry in reused] == ["b"]
    assert state.metrics()["reuse_window"] == 1
    assert state.metrics()["reuse_buffer_size"] == 2  # kept, for when the window grows again
