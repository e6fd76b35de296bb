"""The C functions of packed attention against plain softmax attention in float64, by token."""

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bapo.training.native_layers import why_no_library
from bapo.training.packed_attention import packed_attention, tell_transformers

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=why_no_library())


def seen_by_hand(positions):
    """For each token the places that it sees: its pack's first tokens, and its own run so far."""
    pack = run = 0
    seen = []
    for place, position in enumerate(positions):
        if position == 0:
            pack = run = place
        elif position != positions[place - 1] + 1:
            run = place
        seen.append([*range(pack, pack + positions[run]), *range(run, place + 1)])
    return seen


def plain_attention(queries, keys, values, seen, scale):
    copies = queries.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(copies, 1), values.repeat_interleave(copies, 1)
    rows = []
    for query, places in zip(queries, seen, strict=True):
        shares = torch.softmax(torch.einsum("hd,khd->hk", query, keys[places]) * scale, dim=-1)
        rows.append(torch.einsum("hk,khd->hd", shares, values[places]))
    return torch.stack(rows)


def packs_of(prompt, sizes, count=2):
    """Positions of packs whose prompts grow by one token from pack to pack."""
    return [
        position
        for longer in range(prompt, prompt + count)
        for run in ([0, longer], *([longer, longer + size] for size in sizes))
        for position in range(*run)
    ]


def inputs_of(tokens, heads, key_heads, size):
    generator = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(tokens, count, size, generator=generator)
        for count in (heads, key_heads, key_heads, heads)
    ]


def test_the_tokens_seen_are_those_of_the_prompt_and_of_the_own_completion():
    """Prompt of 2 with completions of 2 and 1; then a single row of 2."""
    assert seen_by_hand([0, 1, 2, 3, 2, 0, 1]) == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "sizes"), [(5, [7, 0, 1, 9]), (33, [20, 31, 12]), (1, [2, 2]), (70, [66, 130])]
)
@pytest.mark.parametrize(
    ("heads", "key_heads", "size"), [(2, 2, 32), (4, 2, 8), (3, 1, 24), (1, 1, 64), (2, 1, 128)]
)
def test_attention_and_its_gradient_are_those_of_float64(prompt, sizes, heads, key_heads, size):
    positions = packs_of(prompt, sizes)
    *given, slope = inputs_of(len(positions), heads, key_heads, size)
    scale = 0.9 * size**-0.5
    ours = [one.clone().requires_grad_() for one in given]
    out = packed_attention(*ours, torch.tensor(positions), scale)
    found = torch.autograd.grad(out, ours, slope)
    exact = [one.double().requires_grad_() for one in given]
    expected = plain_attention(*exact, seen_by_hand(positions), scale)
    assert (out - expected).abs().max() < 3e-6
    for one, other in zip(found, torch.autograd.grad(expected, exact, slope.double()), strict=True):
        assert (one - other).abs().max() < 3e-6 * (1 + other.abs().max())


def test_scores_far_apart_and_large_ones_stay_exact():
    """Scores of some hundreds: shares are 0 and 1 but for rounding, and nothing overflows."""
    positions = packs_of(4, [5, 6])
    *given, slope = inputs_of(len(positions), 2, 2, 16)
    ours = [(one * 10).requires_grad_() for one in given]
    out = packed_attention(*ours, torch.tensor(positions), 1.0)
    exact = [one.detach().double().requires_grad_() for one in ours]
    expected = plain_attention(*exact, seen_by_hand(positions), 1.0)
    assert (out - expected).abs().max() < 1e-3
    for one, other in zip(
        torch.autograd.grad(out, ours, slope),
        torch.autograd.grad(expected, exact, slope.double()),
        strict=True,
    ):
        assert (one - other).abs().max() < 1e-3 * (1 + other.abs().max())


@pytest.mark.parametrize("place", [0, 3, 6])
def test_what_is_not_a_number_spreads_to_those_that_see_it_and_to_no_other(place):
    """A prompt of 2 with two completions, then another pack; a key of each in turn is broken."""
    positions = [0, 1, 2, 3, 2, 3, 0, 1, 2]
    queries, keys, values, _ = inputs_of(len(positions), 1, 1, 16)
    keys[place] = torch.nan
    out = packed_attention(queries, keys, values, torch.tensor(positions), 0.25)
    broken = [place in places for places in seen_by_hand(positions)]
    assert out.isnan().all(dim=-1).all(dim=-1).tolist() == broken
    assert out.isnan().any(dim=-1).any(dim=-1).tolist() == broken


def test_results_do_not_depend_on_the_number_of_threads():
    positions = torch.tensor(packs_of(9, [12, 80, 3], count=5))
    *given, slope = inputs_of(len(positions), 4, 2, 32)
    made, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            ours = [one.clone().requires_grad_() for one in given]
            out = packed_attention(*ours, positions, 0.2)
            made.append([out, *torch.autograd.grad(out, ours, slope)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def of_transformers(mask, **others):
    tell_transformers()
    queries, keys, values, _ = (one.transpose(0, 1)[None] for one in inputs_of(6, 2, 2, 8))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](nn.Module(), queries, keys, values, mask, **others)[0]


def test_transformers_attention_is_torchs_own_but_for_positions():
    """A line that is one row sees what causal attention sees."""
    causal = of_transformers(None, is_causal=True)
    mask = torch.full((6, 6), -torch.inf).triu(1)[None, None]
    torch.testing.assert_close(of_transformers(mask), causal)
    torch.testing.assert_close(of_transformers(torch.arange(6)[None, None, None]), causal)


@pytest.mark.parametrize("asked", [{"dropout": 0.1}, {"softcap": 30.0}, {"position_bias": 1.0}])
def test_what_the_c_functions_do_not_do_is_refused(asked):
    with pytest.raises(ValueError, match="attention of packs is plain attention"):
        of_transformers(torch.arange(6)[None, None, None], **asked)
