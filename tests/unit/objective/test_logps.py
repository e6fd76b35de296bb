import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from bapo.objective import token_logps


def naive(logits, token_ids, temperature):
    """The formula as one writes it, with all logits in float32 at once."""
    if isinstance(temperature, torch.Tensor):
        temperature = temperature[:, None, None]
    log_softmax = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = -(log_softmax.exp() * log_softmax).sum(-1)
    return log_softmax.gather(-1, token_ids[..., None]).squeeze(-1), entropy


def random_case(seed, rows, length, vocabulary, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, length, vocabulary, generator=generator)
    token_ids = torch.randint(vocabulary, (rows, length), generator=generator)
    upstream = torch.randn(rows, length, generator=generator)
    return logits.to(dtype).requires_grad_(), token_ids, upstream


def test_literal_values_at_temperature_two():
    # logits / 2 = log 1, log 3: probabilities 1/4 and 3/4
    logits = torch.tensor([[[0.0, 2 * math.log(3.0)], [0.0, 2 * math.log(3.0)]]])
    result = token_logps(logits, torch.tensor([[0, 1]]), 2.0)
    torch.testing.assert_close(result.logps.exp(), torch.tensor([[0.25, 0.75]]))
    entropy = 0.25 * math.log(4.0) + 0.75 * math.log(4.0 / 3.0)
    torch.testing.assert_close(result.entropy, torch.tensor([[entropy, entropy]]))


def test_literal_gradient_at_temperature_two():
    # d log p(0) / d logits = (onehot - softmax) / temperature
    logits = torch.tensor([[[0.0, 2 * math.log(3.0)]]], requires_grad=True)
    token_logps(logits, torch.tensor([[0]]), 2.0).logps.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.375, -0.375]]]))


@effort(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 5),
    length=st.integers(1, 6),
    vocabulary=st.integers(1, 9),
    chunk_elements=st.integers(1, 200),
    temperature=st.sampled_from([1.0, 0.6, 1.7, "per row"]),
)
def test_any_chunking_equals_the_naive_formula(
    seed, rows, length, vocabulary, chunk_elements, temperature
):
    logits, token_ids, upstream = random_case(seed, rows, length, vocabulary)
    if temperature == "per row":
        temperature = torch.linspace(0.5, 2.0, rows)
    result = token_logps(logits, token_ids, temperature, chunk_elements=chunk_elements)
    expected_logps, expected_entropy = naive(logits, token_ids, temperature)
    torch.testing.assert_close(result.logps, expected_logps, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(result.entropy, expected_entropy, atol=2e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(result.logps, logits, upstream)
    (expected,) = torch.autograd.grad(expected_logps, logits, upstream)
    torch.testing.assert_close(gradient, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_worked_on_in_float32(dtype):
    logits, token_ids, upstream = random_case(1, 3, 4, 50, dtype)
    result = token_logps(logits, token_ids, 0.8, chunk_elements=100)
    expected_logps, expected_entropy = naive(logits, token_ids, 0.8)
    assert result.logps.dtype == result.entropy.dtype == torch.float32
    torch.testing.assert_close(result.logps, expected_logps, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(result.entropy, expected_entropy, atol=2e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(result.logps, logits, upstream)
    (expected,) = torch.autograd.grad(expected_logps, logits, upstream)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-2)


def test_the_gradient_reaches_the_tensor_that_the_logits_are_a_slice_of():
    whole, token_ids, upstream = random_case(2, 3, 6, 7)
    kept = token_ids[:, 1:]
    (gradient,) = torch.autograd.grad(
        token_logps(whole[:, :-1], kept, 0.9, chunk_elements=20).logps, whole, upstream[:, 1:]
    )
    (expected,) = torch.autograd.grad(naive(whole[:, :-1], kept, 0.9)[0], whole, upstream[:, 1:])
    torch.testing.assert_close(gradient, expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(gradient[:, -1], torch.zeros(3, 7))


class LargestFloat32(TorchDispatchMode):
    """Notes the size of the largest float32 result of any operation."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_elements", [4096, 300])
def test_no_float32_tensor_is_larger_than_a_chunk(chunk_elements, temperature):
    logits, token_ids, upstream = random_case(3, 16, 8, 256, torch.bfloat16)
    with LargestFloat32() as largest:
        token_logps(logits, token_ids, temperature, chunk_elements=chunk_elements).logps.backward(
            upstream
        )
    assert 256 <= largest.elements <= chunk_elements
    with LargestFloat32() as largest:
        naive(logits, token_ids, temperature)[0].backward(upstream)
    assert largest.elements == 16 * 8 * 256


def test_the_demo_batch_is_one_chunk():
    logits, token_ids, _ = random_case(4, 256, 32, 32)
    with LargestFloat32() as largest:
        token_logps(logits, token_ids)
    assert largest.elements == 256 * 32 * 32


def test_the_entropy_carries_no_gradient():
    logits, token_ids, _ = random_case(5, 2, 3, 4)
    result = token_logps(logits, token_ids)
    assert result.logps.requires_grad
    assert not result.entropy.requires_grad


def test_an_impossible_token_does_not_spoil_entropy_or_gradient():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]], requires_grad=True)
    result = token_logps(logits, torch.tensor([[0]]))
    result.logps.sum().backward()
    torch.testing.assert_close(result.entropy, torch.tensor([[math.log(2.0)]]))
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.5, -0.5, 0.0]]]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_at_padded_places_may_hold_anything(bad):
    logits, token_ids, upstream = random_case(6, 2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    spoiled = torch.where(mask[..., None], logits.detach(), bad).requires_grad_()
    (expected,) = torch.autograd.grad(
        torch.where(mask, token_logps(logits, token_ids).logps, 0.0), logits, upstream
    )
    (gradient,) = torch.autograd.grad(
        torch.where(mask, token_logps(spoiled, token_ids).logps, 0.0), spoiled, upstream
    )
    assert torch.equal(gradient, expected)


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[1e4, 0.0]], [[0.0, -1e4]]])
    result = token_logps(logits, torch.tensor([[0], [1]]), torch.tensor([0.5, 2.0]))
    assert result.logps.tolist() == [[0.0], [-5000.0]]
    assert result.entropy.tolist() == [[0.0], [0.0]]


def test_an_empty_batch_is_no_error():
    assert token_logps(torch.zeros(0, 3, 4), torch.zeros(0, 3).long()).logps.shape == (0, 3)
    assert token_logps(torch.zeros(2, 0, 4), torch.zeros(2, 0).long()).logps.shape == (2, 0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, torch.ones(3)])
def test_a_temperature_that_makes_no_sense_is_refused(temperature):
    with pytest.raises(ValueError, match=r"[Tt]emperature"):
        token_logps(torch.zeros(2, 3, 4), torch.zeros(2, 3).long(), temperature)


def test_token_ids_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        token_logps(torch.zeros(2, 3, 4), torch.zeros(2, 2).long())
