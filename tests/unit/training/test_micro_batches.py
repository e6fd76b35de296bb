import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bapo.config import ObjectiveSettings
from bapo.training.batching import Row, rows_of_entry
from bapo.training.micro_batches import by_row, micro_batches, visible
from bapo.types import BatchEntry, FinishReason, Group, Source
from tests.builders import make_completion, make_rollout, make_verdicts

CPU = torch.device("cpu")


def make_row(prompt, completion, *, logps=None, mask=None, advantage=0.0, proximal=None):
    count = len(completion)
    return Row(
        prompt=np.array(prompt, np.int32),
        completion=np.array(completion, np.int32),
        behavior_logps=np.array(logps or [-1.0] * count, np.float32),
        loss_mask=np.array(mask or [True] * count, np.bool_),
        advantage=advantage,
        temperature=1.0,
        is_current=False,
        proximal_logps=proximal,
    )


def ragged_rows():
    return {
        "a": make_row([3, 4], [5, 6, 2], logps=[-0.1, -0.2, -0.3], advantage=1.0),
        "b": make_row([7], [8, 2], logps=[-0.4, -0.5], advantage=2.0),
        "c": make_row([9, 10, 11], [2], logps=[-0.6], advantage=3.0),
    }


def test_rows_of_different_lengths_are_laid_out_as_by_hand():
    """Without the last token: a 4, c 3, b 2. b has one prompt token, so every output is needed."""
    rows = ragged_rows()
    (micro,) = micro_batches([rows["b"], rows["c"], rows["a"]], 12, 0, CPU)
    assert micro.rows == (rows["a"], rows["c"], rows["b"])
    assert micro.first == 0
    assert micro.token_ids.tolist() == [[3, 4, 5, 6], [9, 10, 11, 0], [7, 8, 0, 0]]
    assert micro.targets.tolist() == [5, 6, 2, 2, 8, 2]
    assert micro.places.tolist() == [1, 2, 3, 6, 8, 9]
    assert micro.cells.tolist() == [0, 1, 2, 3, 6, 7]
    assert micro.mask.int().tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    torch.testing.assert_close(
        micro.behavior_logps, torch.tensor([[-0.1, -0.2, -0.3], [-0.6, 0, 0], [-0.4, -0.5, 0]])
    )
    assert micro.advantages.tolist() == [1.0, 3.0, 2.0]
    assert micro.proximal_logps.tolist() == [[0.0] * 3] * 3
    assert (micro.positions, micro.segments) == (None, None)


def test_outputs_before_the_shortest_prompts_end_are_not_asked_for():
    """a and c: position 1 is the first whose output predicts a token of either completion."""
    rows = ragged_rows()
    (micro,) = micro_batches([rows["a"], rows["c"]], 10, 0, CPU)
    assert micro.first == 1
    assert micro.places.tolist() == [0, 1, 2, 4]
    assert micro.targets.tolist() == [5, 6, 2, 2]


def test_masked_tokens_and_proximal_logps_stand_at_their_tokens():
    proximal = np.array([-0.7, -0.8, -0.9], np.float32)
    row = make_row([3, 4], [5, 6, 2], mask=[True, False, True], proximal=proximal)
    (micro,) = micro_batches([row, make_row([7], [8])], 99, 0, CPU)
    assert micro.mask.int().tolist() == [[1, 0, 1], [1, 0, 0]]
    torch.testing.assert_close(micro.proximal_logps, torch.tensor([[-0.7, -0.8, -0.9], [0, 0, 0]]))


def test_completions_of_one_prompt_stand_behind_a_single_copy_of_it():
    """Prompt 3 4; completions 5 6 2, 7, and 8 2, each without its last token."""
    rows = [make_row([3, 4], end) for end in ([5, 6, 2], [7], [8, 2])]
    (micro,) = micro_batches(rows, 99, 0, CPU, pair_cost=0.0)
    assert micro.token_ids.tolist() == [[3, 4, 5, 6, 8]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert micro.segments.tolist() == [[0, 0, 1, 1, 3]]
    assert micro.first == 1
    assert micro.targets.tolist() == [5, 6, 2, 7, 8, 2]
    assert micro.places.tolist() == [0, 1, 2, 0, 0, 3]
    assert micro.cells.tolist() == [0, 1, 2, 3, 6, 7]


def test_in_line_packs_stand_end_to_end_without_padding_and_without_segments():
    """The pack of two completions, then the single row, whose prompt has one token."""
    rows = [make_row([7], [8, 2]), make_row([3, 4], [5, 6, 2]), make_row([3, 4], [9, 2])]
    (micro,) = micro_batches(rows, 99, 0, CPU, pair_cost=0.0, in_line=True)
    assert micro.token_ids.tolist() == [[3, 4, 5, 6, 9, 7, 8]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert micro.segments is None
    assert micro.first == 1
    assert micro.targets.tolist() == [5, 6, 2, 9, 2, 8, 2]
    assert micro.places.tolist() == [0, 1, 2, 0, 3, 4, 5]


def test_a_line_holds_as_many_packs_as_the_budget_has_room_for():
    """Lengths 4, 3, 2."""
    rows = list(ragged_rows().values())
    for budget, sizes in [(9, [3]), (8, [2, 1]), (7, [2, 1]), (6, [1, 2]), (1, [1, 1, 1])]:
        micros = micro_batches(rows, budget, 0, CPU, pair_cost=0.0, in_line=True)
        assert [len(micro.rows) for micro in micros] == sizes, budget


def test_a_token_sees_the_prompt_and_its_own_completion_and_nothing_later():
    """Two tokens of prompt, two of one completion, one of another, one of padding."""
    mask = visible(torch.tensor([[0, 0, 1, 1, 2, -1]]), torch.float32)[0, 0]
    assert (mask == 0).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert set(mask[mask != 0].tolist()) == {-torch.inf}


def test_packs_with_a_mask_and_rows_without_one_are_read_apart():
    rows = [make_row([3], [4, 5]), make_row([3], [6, 7]), make_row([8], [9, 2])]
    shared, alone = micro_batches(rows, 99, 0, CPU, pair_cost=0.0)
    assert shared.token_ids.tolist() == [[3, 4, 6]]
    assert alone.token_ids.tolist() == [[8, 9]]
    assert alone.segments is None


def test_a_micro_batch_holds_as_many_packs_as_the_budget_has_room_for_its_longest():
    """Lengths 4, 3, 2. Of 4 tokens, 8 hold two rows and 7 one; then of 3 tokens, 7 hold two."""
    rows = list(ragged_rows().values())
    for budget, sizes in [(12, [3]), (11, [2, 1]), (8, [2, 1]), (7, [1, 2]), (1, [1, 1, 1])]:
        micros = micro_batches(rows, budget, 0, CPU)
        assert [len(micro.rows) for micro in micros] == sizes, budget
    assert micro_batches([], 10, 0, CPU) == []


@pytest.mark.parametrize(
    ("pair_cost", "in_line"), [(None, False), (0.0, False), (0.05, False), (0.0, True)]
)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=5)),
        min_size=1,
        max_size=6,
    ),
    budget=st.integers(1, 60),
)
def test_every_row_stands_in_one_micro_batch_and_is_found_again(
    lengths, budget, pair_cost, in_line
):
    rows = [
        make_row(range(100 * i, 100 * i + prompt), range(50 * i + j, 50 * i + j + size))
        for i, (prompt, sizes) in enumerate(lengths, start=2)
        for j, size in enumerate(sizes)
    ]
    for number, row in enumerate(rows):
        row.behavior_logps = np.full(len(row.completion), -number, np.float32)
    micros = micro_batches(rows, budget, 0, CPU, pair_cost=pair_cost, in_line=in_line)
    assert sorted(id(row) for micro in micros for row in micro.rows) == sorted(map(id, rows))
    for micro in micros:
        count, width = micro.token_ids.shape
        assert count == 1 or count * width <= budget
        assert not in_line or count == 1
        flat = torch.zeros(micro.mask.numel(), dtype=torch.long)
        flat[micro.cells] = micro.targets
        found = by_row(micro, flat.view(micro.mask.shape))
        stored = by_row(micro, micro.behavior_logps)
        read = micro.token_ids[:, micro.first :].flatten()[micro.places].tolist()
        for row in micro.rows:
            assert found[id(row)].tolist() == row.completion.tolist()
            assert stored[id(row)].tolist() == row.behavior_logps.tolist()
            before = [int(row.prompt[-1]), *row.completion.tolist()][:-1]
            assert read[: len(before)] == before
            read = read[len(before) :]
        assert int(micro.mask.sum()) == len(micro.cells)


def test_truncated_completions_stay_out_of_the_loss_but_count_in_their_groups_mean():
    cut = make_completion([5, 6], finish_reason=FinishReason.LENGTH)
    rollout = make_rollout(completions=[make_completion([5, 2]), cut])
    entry = BatchEntry(Group(rollout, make_verdicts("10")), Source.FRESH)
    for settings, mask in (
        (ObjectiveSettings(), [[1, 1], [1, 1]]),
        (ObjectiveSettings(mask_truncated=True), [[1, 1], [0, 0]]),
    ):
        rows = rows_of_entry(entry, 1, settings)
        assert [round(row.advantage, 3) for row in rows] == [1.0, -1.0]
        assert all(row.loss_mask.all() for row in rows)  # the bound counts every token
        (micro,) = micro_batches(rows, 100, 0, CPU)
        assert micro.mask.int().tolist() == mask
