"""What C computes of decoder layers: against float64, found by trial, and taken back afterwards."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers import Gemma2Config, Qwen3Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from bapo.training.native_layers import (
    gated,
    native_layers,
    normalised,
    rotated,
    why_no_library,
)
from tests.rollout_models import tiny_model
from tests.unit.training.test_scoring import (
    SMALL,
    assert_same_update,
    given_to,
    long_prompt_batch,
    make_learner,
    model_of,
    update_of,
)

pytestmark = pytest.mark.skipif(bool(why_no_library()), reason=why_no_library())


def exact_norm(states, weight):
    return weight * states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def exact_rotation(states, cosines, sines):
    first, second = states.chunk(2, dim=-1)
    return states * cosines[:, None] + torch.cat((-second, first), dim=-1) * sines[:, None]


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("ours", "exact", "given", "constants"),
    [
        (lambda x, w: normalised(x, w, 1e-6), exact_norm, [numbers(3, 70, 129), numbers(129)], []),
        (lambda x, w: normalised(x, w, 1e-6), exact_norm, [numbers(2, 5, 3, 8), numbers(8)], []),
        (gated, lambda a, b: functional.silu(a) * b, [numbers(5, 77) * 9, numbers(5, 77) + 1], []),
        (rotated, exact_rotation, [numbers(2, 3, 5, 16)], [numbers(1, 5, 16), numbers(1, 5, 16)]),
        (rotated, exact_rotation, [numbers(2, 3, 5, 6)], [numbers(2, 5, 6), numbers(2, 5, 6)]),
    ],
    ids=["norm", "norm of heads", "activation", "rotation", "rotation of two lines"],
)
def test_values_and_gradients_are_those_of_float64(ours, exact, given, constants):
    taken = [one.clone().requires_grad_() for one in given]
    out = ours(*taken, *constants)
    precise = [one.double().requires_grad_() for one in given]
    expected = exact(*precise, *(one.double() for one in constants))
    slope = numbers(*out.shape)
    found = torch.autograd.grad(out, taken, slope)
    wanted = torch.autograd.grad(expected, precise, slope.double())
    for one, other in zip((out, *found), (expected, *wanted), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 2e-6 * (1 + other.abs().max())


def test_what_is_not_a_number_stays_none_in_its_row():
    states = numbers(3, 8)
    states[1, 2] = torch.nan
    for out in (normalised(states, torch.ones(8), 1e-6), gated(states, states)):
        assert out.isnan().any(dim=-1).tolist() == [False, True, False]


def test_results_do_not_depend_on_the_number_of_threads():
    made, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            states, weight = numbers(300, 16).requires_grad_(), numbers(16).requires_grad_()
            out = normalised(states, weight, 1e-6)
            made.append([out, *torch.autograd.grad(out, (states, weight), numbers(300, 16))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def kinds_of(layers):
    return sorted(type(place).__name__ for place, _ in layers.replaced)


def test_norms_activations_and_the_rotation_of_a_llama_are_found():
    """Two layers of two norms, and the last norm."""
    assert kinds_of(native_layers(tiny_model())) == [
        *["LlamaMLP"] * 2, *["LlamaRMSNorm"] * 5, "module",
    ]  # fmt: skip


def test_what_only_looks_alike_is_left_alone():
    """Gemma 2 bends by GELU and adds 1 to a norm's weights; its rotation is the usual one."""
    gemma = Gemma2ForCausalLM(Gemma2Config(**SMALL))
    for module in gemma.modules():
        if type(module).__name__ == "Gemma2RMSNorm":
            module.variance_epsilon = module.eps
    assert kinds_of(native_layers(gemma)) == ["module"]


def test_an_activation_behind_which_all_is_zero_is_left_alone():
    """Values tell it from no other one there, but gradients do."""
    model = tiny_model(hidden_act="gelu")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
    assert "LlamaMLP" not in kinds_of(native_layers(model))


def test_other_number_types_are_left_to_the_usual_modules():
    model = tiny_model()
    model.model.norm.to(torch.bfloat16)
    layers = native_layers(model)
    assert kinds_of(layers).count("LlamaRMSNorm") == 4
    states = numbers(3, model.config.hidden_size)
    norm = model.model.layers[0].input_layernorm
    expected = norm(states.bfloat16())
    with layers.installed():
        assert torch.equal(norm(states.bfloat16()), expected)


def test_the_default_number_type_of_torch_changes_no_update():
    model = model_of("llama")
    batch = long_prompt_batch(model)
    expected = update_of(copy.deepcopy(model), batch)
    torch.set_default_dtype(torch.float64)
    try:
        found = update_of(model, batch)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_update(found, expected, 1e-6)


def test_a_model_is_as_it_was_once_the_block_is_left():
    model = tiny_model()
    usual = modeling_llama.apply_rotary_pos_emb
    with native_layers(model).installed():
        assert "forward" in vars(model.model.norm)
        assert modeling_llama.apply_rotary_pos_emb is not usual
    assert not any("forward" in vars(module) for module in model.modules())
    assert modeling_llama.apply_rotary_pos_emb is usual


def test_a_call_of_another_kind_is_left_to_the_usual_function():
    """Heads behind tokens, as the rotation takes them if told."""
    states, cosines, sines = numbers(1, 5, 3, 8), numbers(1, 5, 8), numbers(1, 6, 8)[:, :5]
    given = (states, states, cosines, sines)
    usual = modeling_llama.apply_rotary_pos_emb(*given, unsqueeze_dim=2)
    with native_layers(tiny_model()).installed():
        found = modeling_llama.apply_rotary_pos_emb(*given, unsqueeze_dim=2)
    assert all(torch.equal(one, other) for one, other in zip(found, usual, strict=True))


def test_heads_that_are_turned_in_part_are_left_to_the_usual_function():
    """Angles of the first four numbers of eight, which only some models' rotations take."""
    with native_layers(tiny_model()).installed(), pytest.raises(RuntimeError, match="size of"):
        modeling_llama.apply_rotary_pos_emb(*[numbers(1, 2, 5, 8)] * 2, *[numbers(1, 5, 4)] * 2)


def qwen3():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SMALL)).eval()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("make", [lambda: model_of("llama"), qwen3], ids=["llama", "qwen3"])
def test_an_update_is_the_one_of_transformers_own_layers(make, checkpointing, share):
    """Switched off, prompts are shared under a mask or not at all, and torch does the rest."""
    model = make()
    batch = long_prompt_batch(model)
    settings = {"share_prompts": share, "gradient_checkpointing": checkpointing}
    plain = copy.deepcopy(model)
    with given_to(plain) as given:
        theirs = update_of(plain, batch, native_layers=False, **settings)
    masks = [mask for one in given if (mask := one.get("attention_mask")) is not None]
    assert torch.int64 not in {mask.dtype for mask in masks}
    assert_same_update(update_of(model, batch, **settings), theirs, 1e-5)


def test_frozen_norms_get_no_gradient():
    model = model_of("llama")
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.weight.requires_grad_(False)
    batch = long_prompt_batch(model)
    theirs = update_of(copy.deepcopy(model), batch, native_layers=False)
    assert_same_update(update_of(model, batch), theirs, 1e-5)
    assert make_learner(model).weights.keys().isdisjoint({"model.norm.weight"})
