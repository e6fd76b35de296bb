import pytest

from bapo.adaptation import BufferEventKind as Kind
from bapo.adaptation import HardBuffer, SuspectPrompt
from bapo.adaptation.sizes import prompt_bytes
from tests.builders import make_group, make_prompt, through_disk

WRONG, ONE_OF_8, TWO_OF_8 = "00000000", "10000000", "11000000"


def make_buffer(capacity=3, threshold=0.125, max_retries=2, max_bytes=1_000_000):
    return HardBuffer(capacity, threshold, max_retries, max_bytes)


def fill(buffer, *prompt_ids, step=1):
    return buffer.observe(step, [make_group(name, WRONG) for name in prompt_ids], [])


def ids(buffer):
    return [prompt.prompt_id for prompt in buffer.prompts]


def kinds(events):
    return [(event.event, event.prompt_id) for event in events]


def test_a_prompt_at_or_below_c1_enters_at_the_tail_and_one_above_does_not():
    buffer = make_buffer()
    events = buffer.observe(
        1, [make_group("a", WRONG), make_group("b", TWO_OF_8), make_group("c", ONE_OF_8)], []
    )
    assert ids(buffer) == ["a", "c"]
    assert kinds(events) == [(Kind.HARD_ENTERED, "a"), (Kind.HARD_ENTERED, "c")]
    assert [event.correctness_rate for event in events] == [0.0, 0.125]
    assert {event.step for event in events} == {1}


def test_a_prompt_that_is_hard_again_moves_to_the_tail():
    buffer = make_buffer()
    fill(buffer, "a", "b")
    assert kinds(fill(buffer, "a", step=2)) == [(Kind.HARD_MOVED, "a")]
    assert ids(buffer) == ["b", "a"]


def test_beyond_capacity_the_oldest_are_evicted_and_counted_per_step():
    buffer = make_buffer(capacity=2)
    events = fill(buffer, "a", "b", "c", "d")
    assert ids(buffer) == ["c", "d"]
    assert kinds(events) == [
        (Kind.HARD_ENTERED, "a"),
        (Kind.HARD_ENTERED, "b"),
        (Kind.HARD_ENTERED, "c"),
        (Kind.HARD_EVICTED, "a"),
        (Kind.HARD_ENTERED, "d"),
        (Kind.HARD_EVICTED, "b"),
    ]
    assert buffer.evicted_last_step == 2
    fill(buffer, "c", step=2)
    assert buffer.evicted_last_step == 0


def test_a_retried_prompt_leaves_when_it_is_solvable_and_when_it_is_solved():
    buffer = make_buffer()
    fill(buffer, "a", "b", "c")
    retried = [make_group("a", TWO_OF_8), make_group("b", ONE_OF_8), make_group("c", "1" * 8)]
    events = buffer.observe(2, [], retried)
    assert ids(buffer) == ["b"]
    assert kinds(events) == [
        (Kind.HARD_LEFT, "a"),
        (Kind.HARD_LEFT, "c"),
        (Kind.RETRY_FAILED, "b"),
    ]
    assert [event.correctness_rate for event in events] == [0.25, 1.0, 0.125]


def test_a_fresh_group_above_c1_takes_its_prompt_out_too():
    buffer = make_buffer()
    fill(buffer, "a", "b")
    assert kinds(buffer.observe(2, [make_group("a", TWO_OF_8)], [])) == [(Kind.HARD_LEFT, "a")]
    assert ids(buffer) == ["b"]


def test_one_group_above_c1_outweighs_a_hard_one_in_the_same_step():
    buffer = make_buffer()
    fill(buffer, "a")
    events = buffer.observe(2, [make_group("a", WRONG)], [make_group("a", TWO_OF_8)])
    assert kinds(events) == [(Kind.HARD_LEFT, "a")]
    events = buffer.observe(3, [make_group("b", WRONG), make_group("b", TWO_OF_8)], [])
    assert events == []
    assert ids(buffer) == []


def test_a_failed_retry_keeps_the_place():
    buffer = make_buffer()
    fill(buffer, "a", "b", "c")
    buffer.observe(2, [], [make_group("b", WRONG)])
    assert ids(buffer) == ["a", "b", "c"]


def test_a_prompt_without_any_right_answer_is_retired_at_max_retries():
    buffer = make_buffer(max_retries=2)
    fill(buffer, "a", "b")
    events = buffer.observe(2, [], [make_group("a", WRONG)])
    assert kinds(events) == [(Kind.RETRY_FAILED, "a")]
    assert buffer.suspects == ()
    events = buffer.observe(4, [], [make_group("a", WRONG)])
    assert kinds(events) == [(Kind.RETRY_FAILED, "a"), (Kind.HARD_RETIRED, "a")]
    assert ids(buffer) == ["b"]
    assert buffer.suspects == (SuspectPrompt("a", failed_retries=2, step=4),)


def test_a_retired_prompt_is_not_taken_in_again():
    buffer = make_buffer(max_retries=1)
    fill(buffer, "a")
    buffer.observe(2, [make_group("a", WRONG)], [make_group("a", WRONG)])
    assert fill(buffer, "a", step=3) == []
    assert ids(buffer) == []


@pytest.mark.parametrize("where", ["fresh before", "retried before", "solved before"])
def test_a_prompt_with_some_right_answer_is_never_retired(where):
    buffer = make_buffer(max_retries=2)
    if where == "solved before":
        buffer.observe(1, [make_group("a", "11111111")], [])
    fill(buffer, "a", step=2)
    if where == "fresh before":
        buffer.observe(3, [make_group("a", ONE_OF_8)], [])
    first = ONE_OF_8 if where == "retried before" else WRONG
    buffer.observe(4, [], [make_group("a", first)])
    for step in (6, 8, 10):
        buffer.observe(step, [], [make_group("a", WRONG)])
    assert ids(buffer) == ["a"]
    assert buffer.suspects == ()


def test_a_right_answer_reinstates_a_retired_prompt():
    buffer = make_buffer(max_retries=1)
    fill(buffer, "a")
    buffer.observe(2, [], [make_group("a", WRONG)])
    assert len(buffer.suspects) == 1
    events = buffer.observe(3, [make_group("a", ONE_OF_8)], [])
    assert kinds(events) == [(Kind.HARD_REINSTATED, "a"), (Kind.HARD_ENTERED, "a")]
    assert buffer.suspects == ()
    assert ids(buffer) == ["a"]


def test_failed_retries_are_remembered_across_eviction():
    buffer = make_buffer(capacity=1, max_retries=2)
    fill(buffer, "a")
    buffer.observe(2, [make_group("b", WRONG)], [make_group("a", WRONG)])  # b evicts a
    fill(buffer, "a", step=3)
    buffer.observe(4, [], [make_group("a", WRONG)])
    assert [suspect.prompt_id for suspect in buffer.suspects] == ["a"]


def test_a_restored_buffer_has_forgotten_nothing():
    buffer, restored = make_buffer(max_retries=2), make_buffer(max_retries=2)
    fill(buffer, "suspect", "once right", "failed once")
    retried = [make_group("suspect", WRONG), make_group("once right", ONE_OF_8)]
    buffer.observe(2, [], [*retried, make_group("failed once", WRONG)])
    buffer.observe(4, [make_group(x, WRONG) for x in "ab"], [make_group("suspect", WRONG)])
    restored.load_state_dict(through_disk(buffer.state_dict()))
    assert restored.suspects == (SuspectPrompt("suspect", failed_retries=2, step=4),)
    assert ids(restored) == ["failed once", "a", "b"]
    assert restored.evicted_last_step == 1
    assert fill(restored, "suspect", step=5) == []
    fill(restored, "once right", step=5)  # evicts the one that failed once, whose count remains
    fill(restored, "failed once", step=6)
    for step in (7, 8):
        restored.observe(step, [], [make_group(name, WRONG) for name in ids(restored)])
    assert ids(restored) == ["once right"]
    assert [(one.prompt_id, one.step) for one in restored.suspects] == [
        ("suspect", 4),
        ("failed once", 7),
        ("b", 8),
    ]


def test_the_rate_of_a_prompt_is_the_last_it_showed():
    buffer = make_buffer()
    fill(buffer, "a")
    assert buffer.rate_of("a") == 0.0
    buffer.observe(2, [], [make_group("a", ONE_OF_8)])
    assert buffer.rate_of("a") == 0.125


def test_retrying_a_prompt_that_is_not_in_the_buffer_is_refused_and_changes_nothing():
    buffer = make_buffer()
    fill(buffer, "a")
    with pytest.raises(ValueError, match="'b' is not in the hard buffer"):
        buffer.observe(2, [make_group("a", "1" * 8)], [make_group("b", WRONG)])
    assert ids(buffer) == ["a"]


def test_any_group_size_is_judged_by_the_rate():
    buffer = make_buffer(capacity=9, threshold=0.125)
    buffer.observe(
        1,
        [
            make_group("2 wrong", "00"),
            make_group("1 of 2", "10"),
            make_group("1 of 7", "1000000"),  # 0.143 is above 0.125
            make_group("1 of 9", "100000000"),  # 0.111 is not
            make_group("single", "0"),
        ],
        [],
    )
    assert ids(buffer) == ["2 wrong", "1 of 9", "single"]


def test_beyond_the_limit_in_bytes_the_prompts_at_the_head_are_evicted():
    each = prompt_bytes(make_prompt("a"))
    buffer = make_buffer(capacity=9, max_bytes=2 * each)
    events = fill(buffer, "a", "b", "c")
    assert kinds(events)[2:] == [(Kind.HARD_ENTERED, "c"), (Kind.HARD_EVICTED, "a")]
    assert (ids(buffer), buffer.bytes, buffer.evicted_last_step) == (["b", "c"], 2 * each, 1)
    assert kinds(fill(buffer, "b", step=2)) == [(Kind.HARD_MOVED, "b")]
    buffer.observe(3, [make_group("b", TWO_OF_8)], [])
    assert (ids(buffer), buffer.bytes) == (["c"], each)
    restored = make_buffer(capacity=9, max_bytes=2 * each)
    restored.load_state_dict(through_disk(buffer.state_dict()))
    assert restored.bytes == each


def test_a_prompt_that_is_larger_than_the_limit_enters_and_leaves():
    buffer = make_buffer(max_bytes=100)
    assert kinds(fill(buffer, "a")) == [(Kind.HARD_ENTERED, "a"), (Kind.HARD_EVICTED, "a")]
    assert buffer.bytes == 0
