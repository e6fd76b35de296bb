import numpy as np

from bapo.config import ObjectiveSettings
from bapo.training.batching import mini_batches, rows_of_entry
from bapo.types import BatchEntry, Source
from tests.builders import make_batch, make_group


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
