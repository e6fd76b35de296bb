import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bapo.rollout.batching import Row, WaitingRows, pad_left, pad_right


def batches_of(lengths, group_size, new_tokens, budget) -> list[list[Row]]:
    waiting = WaitingRows(lengths, group_size, new_tokens)
    batches = []
    while waiting:
        batches.append(waiting.take(budget))
    return batches


def test_rows_stand_sorted_by_prompt_length_in_batches_that_fit():
    # Widths 2+4 = 6 and 5+4 = 9: a budget of 18 holds 3 rows of the first or 2 of the second.
    batches = batches_of([5, 2], group_size=2, new_tokens=4, budget=18)
    assert batches == [[Row(1, 0), Row(1, 1)], [Row(0, 0), Row(0, 1)]]


def test_a_group_larger_than_the_budget_is_split():
    batches = batches_of([2], group_size=3, new_tokens=4, budget=12)
    assert batches == [[Row(0, 0), Row(0, 1)], [Row(0, 2)]]


def test_a_group_that_does_not_fit_beside_others_waits_for_the_next_batch():
    # Width 6: a budget of 30 holds five rows, and so one group of three.
    batches = batches_of([2, 2], group_size=3, new_tokens=4, budget=30)
    assert batches == [[Row(0, 0), Row(0, 1), Row(0, 2)], [Row(1, 0), Row(1, 1), Row(1, 2)]]


def test_a_row_larger_than_the_budget_goes_alone():
    assert batches_of([9], 2, 4, 5) == [[Row(0, 0)], [Row(0, 1)]]


def test_groups_join_live_rows_where_they_fit_whole():
    # Width 6: a budget of 60 holds ten rows.
    waiting = WaitingRows([2, 2], group_size=3, new_tokens=4)
    assert waiting.take(60, beside=8) == []
    assert waiting.take(60, beside=7) == [Row(0, 0), Row(0, 1), Row(0, 2)]
    assert waiting.take(60, beside=4) == [Row(1, 0), Row(1, 1), Row(1, 2)]


def test_the_width_of_what_joins_is_that_of_all_rows():
    # Width 9: the same budget holds six rows.
    assert WaitingRows([5], group_size=3, new_tokens=4).take(60, beside=4) == []


def test_nothing_joins_before_a_share_of_the_room_is_free():
    waiting = WaitingRows([2], group_size=1, new_tokens=4)
    assert waiting.take(60, beside=8, at_least=0.3) == []
    assert waiting.take(60, beside=7, at_least=0.3) == [Row(0, 0)]


def test_only_prompts_of_one_length_begin_together_where_none_may_be_padded():
    waiting = WaitingRows([3, 2, 3], group_size=1, new_tokens=4)
    taken = [waiting.take(100, alike=True) for _ in range(3)]
    assert taken == [[Row(1, 0)], [Row(0, 0), Row(2, 0)], []]


def test_a_group_larger_than_the_budget_joins_in_parts_until_the_rest_fits_whole():
    waiting = WaitingRows([2], group_size=25, new_tokens=4)
    taken = [len(waiting.take(60, beside=beside)) for beside in (0, 6, 10, 7, 4, 2)]
    assert taken == [10, 4, 0, 3, 0, 8]


@given(
    lengths=st.lists(st.integers(1, 20), max_size=12),
    group_size=st.integers(1, 6),
    new_tokens=st.integers(1, 10),
    budget=st.integers(1, 120),
)
def test_every_row_stands_in_one_batch_and_no_batch_exceeds_the_budget(
    lengths, group_size, new_tokens, budget
):
    batches = batches_of(lengths, group_size, new_tokens, budget)
    rows = [row for batch in batches for row in batch]
    expected = {Row(prompt, index) for prompt in range(len(lengths)) for index in range(group_size)}
    assert len(rows) == len(expected)
    assert set(rows) == expected
    for batch in batches:
        width = max(lengths[row.prompt] for row in batch) + new_tokens
        assert len(batch) == 1 or width * len(batch) <= budget


def test_padding_goes_before_prompts_and_behind_sequences():
    rows = [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]
    ids, pads = pad_left(rows, 0, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert pads.tolist() == [0, 2]
    assert pad_right(rows, 9, torch.device("cpu")).tolist() == [[5, 6, 7], [8, 9, 9]]
