from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bapo.errors import DataError
from bapo.training import PromptStream
from tests.builders import make_prompt, through_disk


def make_stream(size, seed=0, smallest=1):
    return PromptStream([make_prompt(str(i)) for i in range(size)], seed=seed, smallest=smallest)


def drawn(stream, *counts):
    """The ids of each draw of one step."""
    stream.begin_step()
    return [[prompt.prompt_id for prompt in stream.draw(count)] for count in counts]


def test_an_epoch_has_every_prompt_once():
    stream = make_stream(12)
    first = [name for _ in range(4) for name in drawn(stream, 3)[0]]
    assert sorted(first, key=int) == [str(i) for i in range(12)]
    assert stream.epochs == 1.0


def test_epochs_have_orders_of_their_own_and_so_have_seeds():
    stream = make_stream(50)
    first, second = drawn(stream, 50)[0], drawn(stream, 50)[0]
    assert first != second
    assert set(first) == set(second)
    assert first == drawn(make_stream(50), 50)[0]
    assert first != drawn(make_stream(50, seed=1), 50)[0]
    assert first != [str(i) for i in range(50)]


def test_a_step_that_meets_the_next_epoch_repeats_no_prompt_and_loses_none():
    """Five prompts in steps of three: the second step needs one of the new epoch. Whatever of it
    comes up that the step has drawn waits, and comes first in the third step."""
    for seed in range(20):
        stream = make_stream(5, seed)
        steps = [drawn(stream, 3)[0] for _ in range(2)]
        waiting = [str(index) for index in stream.state_dict()["waiting"]]
        assert len(set(steps[1])) == 3
        assert set(waiting) <= set(steps[1][:2])
        third = drawn(stream, 3)[0]
        assert third[: len(waiting)] == waiting
        assert Counter(steps[0] + steps[1] + third).most_common()[0][1] <= 2


def test_a_step_gets_at_most_every_prompt_once_however_often_it_asks():
    stream = make_stream(5)
    draws = drawn(stream, 2, 2, 2, 2)
    assert [len(draw) for draw in draws] == [2, 2, 1, 0]
    assert len(drawn(stream, 5)[0]) == 5


def test_fewer_prompts_than_a_step_needs_are_refused_at_once():
    with pytest.raises(DataError, match=r"3 training prompts, but a step draws 4; .*batch_groups"):
        make_stream(3, smallest=4)
    make_stream(4, smallest=4)


STEPS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=12)


@given(size=st.integers(1, 9), seed=st.integers(0, 5), steps=STEPS)
def test_every_prompt_comes_as_often_as_every_other_but_for_the_epoch_that_runs(size, seed, steps):
    """Drawn or waiting: after n prompts of the endless order each came n // size times or once
    more."""
    stream, seen = make_stream(size, seed), Counter()
    for counts in steps:
        draws = drawn(stream, *counts)
        step = [name for draw in draws for name in draw]
        assert len(set(step)) == len(step) == min(size, sum(counts))
        for draw, count in zip(draws, counts, strict=True):
            assert len(draw) <= count
        seen.update(step)
        waiting = Counter(str(index) for index in stream.state_dict()["waiting"])
        passed = round(stream.epochs * size)
        assert sum(seen.values()) + sum(waiting.values()) == passed
        for index in range(size):
            assert (seen + waiting)[str(index)] - passed // size in (0, 1)


@given(size=st.integers(1, 9), seed=st.integers(0, 5), steps=STEPS, data=st.data())
def test_a_stream_restored_after_any_step_goes_on_as_if_nothing_had_happened(
    size, seed, steps, data
):
    cut = data.draw(st.integers(0, len(steps)))
    stream, restored = make_stream(size, seed), make_stream(size, seed)
    for counts in steps[:cut]:
        drawn(stream, *counts)
    restored.load_state_dict(through_disk(stream.state_dict()))
    assert restored.epochs == stream.epochs
    for counts in [*steps[cut:], [size]]:
        assert drawn(restored, *counts) == drawn(stream, *counts)
