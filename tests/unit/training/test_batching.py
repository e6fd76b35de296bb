import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bapo.config import ObjectiveSettings
from bapo.training.batching import Row, micro_batches, mini_batches, rows_of_entry
from bapo.types import BatchEntry, FinishReason, Group, Source
from tests.builders import make_batch, make_completion, make_group, make_rollout, make_verdicts

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
    """Longest first: a (5), c (4), b (3). b has one prompt token, so every logit is needed."""
    rows = ragged_rows()
    (micro,) = micro_batches([rows["b"], rows["c"], rows["a"]], 15, 0, CPU)
    assert micro.rows == (rows["a"], rows["c"], rows["b"])
    assert micro.first == 0
    assert micro.token_ids.tolist() == [[3, 4, 5, 6, 2], [9, 10, 11, 2, 0], [7, 8, 2, 0, 0]]
    assert micro.targets.tolist() == [[4, 5, 6, 2], [10, 11, 2, 0], [8, 2, 0, 0]]
    assert micro.mask.int().tolist() == [[0, 1, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]
    assert [span for _, span in micro.spans()] == [slice(1, 4), slice(2, 3), slice(0, 2)]
    torch.testing.assert_close(
        micro.behavior_logps,
        torch.tensor([[0, -0.1, -0.2, -0.3], [0, 0, -0.6, 0], [-0.4, -0.5, 0, 0]]),
    )
    assert micro.advantages.tolist() == [1.0, 3.0, 2.0]
    assert micro.proximal_logps.tolist() == [[0.0] * 4] * 3


def test_logits_before_the_shortest_prompts_end_are_not_asked_for():
    """a and c: position 1 is the first whose logits predict a token of either completion."""
    rows = ragged_rows()
    (micro,) = micro_batches([rows["a"], rows["c"]], 10, 0, CPU)
    assert micro.first == 1
    assert micro.targets.tolist() == [[5, 6, 2], [11, 2, 0]]
    assert micro.mask.int().tolist() == [[1, 1, 1], [0, 1, 0]]
    assert [span for _, span in micro.spans()] == [slice(0, 3), slice(1, 2)]


def test_masked_tokens_and_proximal_logps_stand_at_their_tokens():
    proximal = np.array([-0.7, -0.8, -0.9], np.float32)
    row = make_row([3, 4], [5, 6, 2], mask=[True, False, True], proximal=proximal)
    (micro,) = micro_batches([row, make_row([7], [8])], 99, 0, CPU)
    assert micro.mask.int().tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    torch.testing.assert_close(
        micro.proximal_logps, torch.tensor([[0, -0.7, -0.8, -0.9], [0, 0, 0, 0]])
    )


def test_a_micro_batch_holds_as_many_rows_as_the_budget_has_room_for_its_longest():
    """Lengths 5, 4, 3. Of 5 tokens, 10 hold two rows and 9 one; then of 4 tokens, 9 hold two."""
    rows = list(ragged_rows().values())
    for budget, sizes in [(15, [3]), (14, [2, 1]), (10, [2, 1]), (9, [1, 2]), (1, [1, 1, 1])]:
        micros = micro_batches(rows, budget, 0, CPU)
        assert [len(micro.rows) for micro in micros] == sizes, budget
    assert micro_batches([], 10, 0, CPU) == []


@given(
    lengths=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12),
    budget=st.integers(1, 60),
)
def test_every_row_stands_in_one_micro_batch_and_is_found_again(lengths, budget):
    rows = [
        make_row(range(100, 100 + p), range(100 * i, 100 * i + t), logps=[-float(i)] * t)
        for i, (p, t) in enumerate(lengths, start=2)
    ]
    micros = micro_batches(rows, budget, 0, CPU)
    assert sorted(id(row) for micro in micros for row in micro.rows) == sorted(map(id, rows))
    for micro in micros:
        count, width = micro.token_ids.shape
        assert count == 1 or count * width <= budget
        covered = torch.zeros_like(micro.mask)
        for index, (row, span) in enumerate(micro.spans()):
            assert micro.targets[index, span].tolist() == row.completion.tolist()
            assert micro.behavior_logps[index, span].tolist() == row.behavior_logps.tolist()
            assert micro.token_ids[index, : len(row.prompt)].tolist() == row.prompt.tolist()
            covered[index, span] = True
        assert torch.equal(covered, micro.mask)


def test_the_rows_of_a_group_carry_its_advantages_and_whether_they_are_current():
    """Scores 1 0 0 0: mean 1/4, deviation sqrt(3)/4, so sqrt(3) and three times -1/sqrt(3)."""
    group = make_group("a", "1000", version=6, temperature=0.7)
    settings = ObjectiveSettings(advantage_epsilon=1e-12)
    for step, current in [(7, True), (8, False)]:
        rows = rows_of_entry(BatchEntry(group, Source.FRESH), step, settings)
        np.testing.assert_allclose(
            [row.advantage for row in rows], [3**0.5, *[-(3**-0.5)] * 3], rtol=1e-6
        )
        assert [row.is_current for row in rows] == [current] * 4
    assert [row.temperature for row in rows] == [0.7] * 4
    assert [row.completion.tolist() for row in rows] == [[5] * 3, [6] * 3, [7] * 3, [8] * 3]
    assert all(row.proximal_logps is None for row in rows)
    unscaled = rows_of_entry(
        BatchEntry(group, Source.FRESH), 7, ObjectiveSettings(scale_advantage=False)
    )
    assert [row.advantage for row in unscaled] == [0.75, -0.25, -0.25, -0.25]


def test_advantages_come_from_scores_and_not_from_correctness():
    group = make_group("a", "10", scores=[0.25, 0.75])
    rows = rows_of_entry(
        BatchEntry(group, Source.FRESH), 1, ObjectiveSettings(scale_advantage=False)
    )
    assert [row.advantage for row in rows] == [-0.25, 0.25]


def five_groups():
    """Two fresh groups, one retried, two reused; group i has i + 2 completions."""
    sources = [Source.FRESH] * 2 + [Source.RETRIED] + [Source.REUSED] * 2
    groups = [make_group(name, "1" + "0" * (i + 1)) for i, name in enumerate("abcde")]
    return make_batch(1, *zip(groups, sources, strict=True)), groups


def test_mini_batches_deal_whole_groups_in_turn():
    """Sizes 2 to 6. Two updates get a c e and b d; three get a d, b e and c."""
    batch, _ = five_groups()
    for updates, sizes in [(1, [20]), (2, [12, 8]), (3, [7, 9, 4]), (5, [2, 3, 4, 5, 6])]:
        minis = mini_batches(batch, updates, ObjectiveSettings())
        assert [len(rows) for rows in minis] == sizes


def test_with_fewer_groups_than_updates_there_is_one_update_a_group_and_none_without():
    batch, _ = five_groups()
    assert [len(rows) for rows in mini_batches(batch, 9, ObjectiveSettings())] == [2, 3, 4, 5, 6]
    assert mini_batches(make_batch(1), 2, ObjectiveSettings()) == []


def test_a_group_stands_in_one_mini_batch_with_all_its_completions():
    batch, groups = five_groups()
    first, second = mini_batches(batch, 2, ObjectiveSettings())
    for rows, names in [(first, (0, 2, 4)), (second, (1, 3))]:
        expected = [one for i in names for one in groups[i].rollout.completions]
        pairs = zip(rows, expected, strict=True)
        assert all(row.completion is one.token_ids for row, one in pairs)


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
        assert micro.mask[:, -2:].int().tolist() == mask
