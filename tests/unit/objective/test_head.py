import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bapo.objective import head_logps, token_logps

M, H, V = 7, 5, 11


def inputs(dtype=torch.float32, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    tokens = torch.randint(0, V, (M,), generator=generator)
    temperatures = torch.rand(M, generator=generator) + 0.5
    return draw(M, H), draw(V, H), draw(V) if bias else None, tokens, temperatures


def gradients(logps, tensors, upstream):
    wanted = [one for one in tensors if one is not None]
    return torch.autograd.grad((logps * upstream).sum(), wanted)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_elements", [1, V, 2 * V, 5 * V, 7 * V, 1000])
def test_in_chunks_it_is_token_logps_of_the_whole_product(chunk_elements, bias):
    hidden, weight, offset, tokens, temperatures = inputs(bias=bias)
    upstream = torch.linspace(-1.0, 2.0, M)
    upstream[2] = 0.0
    logits = torch.nn.functional.linear(hidden, weight, offset)[:, None]
    expected = token_logps(logits, tokens[:, None], temperatures)
    found = head_logps(hidden, weight, offset, tokens, temperatures, chunk_elements=chunk_elements)
    torch.testing.assert_close(found.logps, expected.logps[:, 0])
    torch.testing.assert_close(found.entropy, expected.entropy[:, 0])
    tensors = (hidden, weight, offset)
    for ours, theirs in zip(
        gradients(found.logps, tensors, upstream),
        gradients(expected.logps[:, 0], tensors, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_token_without_upstream_gradient_takes_no_part_in_the_gradient():
    hidden, weight, _, tokens, _ = inputs(bias=False)
    upstream = torch.ones(M)
    upstream[3] = 0.0
    found = head_logps(hidden, weight, None, tokens, chunk_elements=2 * V)
    into_hidden, _ = gradients(found.logps, (hidden, weight), upstream)
    assert torch.equal(into_hidden[3], torch.zeros(H))
    assert into_hidden[2].abs().max() > 0


def test_a_frozen_head_costs_no_gradient_of_its_own():
    """Of three products, logits again, into the hidden states and into the head, the last goes."""
    hidden, weight, bias, tokens, temperatures = inputs()
    product, found = 2 * M * H * V, {}
    for frozen in (False, True):
        head = [one.detach() if frozen else one for one in (weight, bias)]
        logps = head_logps(hidden, *head, tokens, temperatures, chunk_elements=2 * V).logps.sum()
        with FlopCounterMode(display=False) as counter:
            wanted = [hidden] if frozen else [hidden, weight, bias]
            found[frozen], *_ = torch.autograd.grad(logps, wanted)
        assert counter.get_total_flops() == (2 if frozen else 3) * product
    assert torch.equal(found[True], found[False])


def test_one_temperature_for_all_is_the_same_as_one_for_each():
    hidden, weight, bias, tokens, _ = inputs()
    for chunk in (3 * V, 1000):
        single = head_logps(hidden, weight, bias, tokens, 0.7, chunk_elements=chunk)
        each = head_logps(hidden, weight, bias, tokens, torch.full((M,), 0.7), chunk_elements=chunk)
        torch.testing.assert_close(single.logps, each.logps)


def test_entropies_are_left_out_where_they_are_not_wanted():
    hidden, weight, bias, tokens, _ = inputs()
    for chunk in (3 * V, 1000):
        wanted = head_logps(hidden, weight, bias, tokens, chunk_elements=chunk)
        without = head_logps(hidden, weight, bias, tokens, entropy=False, chunk_elements=chunk)
        assert torch.equal(wanted.logps, without.logps)
        assert without.entropy.isnan().all()
        assert wanted.entropy.isfinite().all()


def test_under_autocast_chunks_give_what_the_whole_product_gives():
    hidden, weight, bias, tokens, temperatures = inputs()
    upstream = torch.linspace(-1.0, 2.0, M)
    results = []
    for chunk in (1000, 2 * V):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = head_logps(hidden, weight, bias, tokens, temperatures, chunk_elements=chunk)
        results.append((found.logps, *gradients(found.logps, (hidden, weight, bias), upstream)))
    whole, chunked = results
    assert torch.equal(whole[0], chunked[0])
    for ours, theirs in zip(chunked[1:], whole[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=2e-2)


def test_the_logits_of_all_tokens_are_never_held():
    """What autograd keeps for the backward pass is no larger than hidden states and weights."""
    hidden, weight, bias, tokens, temperatures = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        head_logps(hidden, weight, bias, tokens, temperatures, chunk_elements=V)
    assert max(kept) == V * H < M * V
