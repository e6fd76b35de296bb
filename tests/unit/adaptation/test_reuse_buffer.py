import numpy as np
import pytest

from bapo.adaptation import Band, ReuseBuffer
from bapo.adaptation import BufferEventKind as Kind
from bapo.adaptation.packed import pack
from bapo.adaptation.sizes import group_bytes
from tests.builders import make_group, through_disk

EVERYTHING = Band(0.0, 1.0)
ROOM = 1_000_000


def ids(groups):
    return [group.prompt_id for group in groups]


def test_only_groups_with_both_right_and_wrong_answers_enter():
    buffer = ReuseBuffer(window=3)
    events = buffer.observe(
        1, [make_group("a", "0000"), make_group("b", "1000"), make_group("c", "1111")], ROOM
    )
    assert [(event.event, event.prompt_id, event.correctness_rate) for event in events] == [
        (Kind.REUSE_ENTERED, "b", 0.25)
    ]
    assert len(buffer) == 1
    assert ids(buffer.eligible(2, EVERYTHING)) == ["b"]


@pytest.mark.parametrize("window", [1, 3])
def test_a_group_can_be_reused_in_the_next_steps_of_the_window_only(window):
    buffer = ReuseBuffer(window)
    buffer.observe(4, [make_group("a", "10")], ROOM)
    reusable = [step for step in range(1, 12) if buffer.eligible(step, EVERYTHING)]
    assert reusable == list(range(5, 5 + window))


def test_groups_expire_when_no_later_step_can_reuse_them():
    buffer = ReuseBuffer(window=2)
    buffer.observe(1, [make_group("a", "10"), make_group("b", "10")], ROOM)
    assert [event.event for event in buffer.observe(2, [make_group("c", "10")], ROOM)] == [
        Kind.REUSE_ENTERED
    ]
    events = buffer.observe(3, [], ROOM)
    assert [(event.event, event.prompt_id, event.step) for event in events] == [
        (Kind.REUSE_EXPIRED, "a", 3),
        (Kind.REUSE_EXPIRED, "b", 3),
    ]
    assert ids(buffer.eligible(4, EVERYTHING)) == ["c"]


def test_only_groups_in_the_band_are_eligible():
    buffer = ReuseBuffer(window=3)
    buffer.observe(1, [make_group("1/8", 0.125, group_size=8), make_group("5/8", "11111000")], ROOM)
    buffer.observe(2, [make_group("2/8", 0.25, group_size=8), make_group("3/8", "11100000")], ROOM)
    assert ids(buffer.eligible(3, Band(0.125, 0.25))) == ["1/8", "2/8"]
    assert ids(buffer.eligible(3, Band(0.7, 0.8))) == []
    # Between 2/8 and 3/8 there is no rate of eight, and the band reaches to the nearer one.
    assert ids(buffer.eligible(3, Band(0.3, 0.35))) == ["3/8"]


def test_a_prompt_may_have_several_groups_in_the_buffer():
    buffer = ReuseBuffer(window=3)
    buffer.observe(1, [make_group("a", "10"), make_group("a", "10")], ROOM)
    buffer.observe(2, [make_group("a", "10")], ROOM)
    assert ids(buffer.eligible(3, EVERYTHING)) == ["a", "a", "a"]


def test_without_room_the_oldest_groups_are_evicted_and_said():
    buffer = ReuseBuffer(window=3)
    each = group_bytes(pack(make_group("a", "10")))
    buffer.observe(1, [make_group("a", "10"), make_group("b", "10")], 3 * each)
    events = buffer.observe(2, [make_group("c", "10"), make_group("d", "01")], 3 * each)
    assert [(event.event, event.prompt_id) for event in events] == [
        (Kind.REUSE_ENTERED, "c"),
        (Kind.REUSE_ENTERED, "d"),
        (Kind.REUSE_EVICTED, "a"),
    ]
    assert (len(buffer), buffer.bytes, buffer.evicted_last_step) == (3, 3 * each, 1)
    assert ids(buffer.eligible(3, EVERYTHING)) == ["b", "c", "d"]
    buffer.observe(3, [], 2 * each - 1)  # the hard prompts have grown
    assert ids(buffer.eligible(4, EVERYTHING)) == ["d"]
    buffer.observe(4, [], 2 * each)
    assert buffer.evicted_last_step == 0


def test_a_restored_buffer_counts_the_same_bytes():
    buffer = ReuseBuffer(window=3)
    buffer.observe(1, [make_group("a", "10"), make_group("b", "1000")], ROOM)
    restored = ReuseBuffer(window=3)
    restored.load_state_dict(through_disk(buffer.state_dict()))
    assert restored.bytes == buffer.bytes > 0
    assert ids(restored.eligible(2, EVERYTHING)) == ["a", "b"]


def test_eligible_groups_stand_by_rate_and_then_oldest_first():
    buffer = ReuseBuffer(window=9)
    for step, name in enumerate("abcd", start=1):
        buffer.observe(step, [make_group(f"{name}1", "1000"), make_group(f"{name}2", "1100")], ROOM)
    groups = buffer.eligible(5, EVERYTHING)
    assert ids(groups) == ["a1", "b1", "c1", "d1", "a2", "b2", "c2", "d2"]
    assert ids(groups[2:6]) == ["c1", "d1", "a2", "b2"]
    assert groups[-1].prompt_id == "d2"
    assert ids(buffer.eligible(5, EVERYTHING, window=2)) == ["c1", "d1", "c2", "d2"]
    assert ids(buffer.eligible(3, EVERYTHING)) == ["a1", "b1", "a2", "b2"]
    with pytest.raises(IndexError, match="8 eligible groups, and no number 8"):
        groups[8]


def test_what_is_eligible_is_what_a_look_at_every_group_finds():
    """Random steps, rates, windows and limits, against a plain list of what is still there."""
    generator = np.random.default_rng(0)
    buffer = ReuseBuffer(window=6)
    each = group_bytes(pack(make_group("a", "1000")))
    plain = []
    for step in range(1, 60):
        count = int(generator.integers(0, 5))
        rates = generator.integers(1, 4, count).tolist()
        entering = [make_group("a", "1" * rate + "0" * (4 - rate)) for rate in rates]
        buffer.observe(step, entering, 12 * each)
        plain = [one for one in plain if one[0] > step - 6]
        plain = [*plain, *((step, group) for group in entering)][-12:]
        assert [id(packed.group) for packed in buffer.groups] == [id(group) for _, group in plain]
        band = Band(0.25, 0.25 * int(generator.integers(1, 4)))
        reach = int(generator.integers(1, 7))
        expected = {
            id(group)
            for entered, group in plain
            if step + 1 - reach <= entered and band.contains(group.correctness_rate)
        }
        found = [id(packed.group) for packed in buffer.eligible(step + 1, band, reach)]
        assert len(found) == len(set(found)) == len(expected)
        assert set(found) == expected
