import pytest
from transformers import LlamaConfig

from bapo.training.packing import LONGEST_PACK, attention_pair_cost, packs
from tests.unit.training.test_micro_batches import make_row


def group(prompt, sizes, start=10):
    return [make_row([start] * prompt, [5] * size) for size in sizes]


def sizes_of(made):
    return [len(pack.rows) for pack in made]


def test_a_pack_is_as_long_as_its_prompt_and_completions_without_their_last_tokens():
    """4 + (3 - 1) + (1 - 1) + (5 - 1); the third completion begins after the first one's two."""
    (pack,) = packs(group(4, [3, 1, 5]), 0.0, 100)
    assert pack.length == 10
    assert [start for _, start in pack.starts()] == [4, 6, 6]


def test_without_a_pair_cost_every_row_stands_alone():
    made = packs(group(4, [3, 1, 5]), None, 100)
    assert (sizes_of(made), [pack.length for pack in made]) == ([1, 1, 1], [6, 4, 8])


def test_rows_of_different_prompts_never_share():
    made = packs([*group(4, [3, 3]), *group(5, [3, 3]), *group(4, [2], start=11)], 0.0, 100)
    assert sizes_of(made) == [2, 2, 1]


@pytest.mark.parametrize(("pair_cost", "sizes"), [(0.0, [4]), (0.008, [2, 2]), (0.02, [1] * 4)])
def test_as_many_completions_share_as_pay(pair_cost, sizes):
    """Prompt 20, four completions of 21. One pack: 100 tokens and 10,000 pairs; two: 120 and 7,200;
    four, causal: 160 and 3,200. At 0.008 that is 180, 177.6 and 185.6; at 0.02 300, 264 and 224."""
    assert sizes_of(packs(group(20, [21] * 4), pair_cost, 1000)) == sizes


def test_packs_that_are_too_long_are_split_but_single_rows_stay():
    """Prompt 20: packs of 4, 2 and 1 completions of 21 have 100, 60 and 40 tokens."""
    rows = group(20, [21] * 4)
    assert [sizes_of(packs(rows, 0.0, most)) for most in (100, 99, 60, 59, 10)] == [
        [4], [2, 2], [2, 2], [1] * 4, [1] * 4,
    ]  # fmt: skip
    long = group(LONGEST_PACK - 10, [4, 4, 4, 4])
    assert sizes_of(packs(long, 0.0, 10**9)) == [2, 2]


def test_attention_is_weighed_by_the_models_own_shape():
    """2 layers x 4 heads x 8: 2 * 64 operations a pair against 2 for each of 6,400 parameters."""
    config = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)
    assert attention_pair_cost(config, 6400) == pytest.approx(0.02)
