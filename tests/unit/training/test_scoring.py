"""Every fast path of the learner's forward pass against the plain one, and what switches it off."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from transformers import (
    Gemma2Config,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
)
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.models.mamba.modeling_mamba import MambaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.opt.modeling_opt import OPTForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM

from bapo.objective import head_logps
from bapo.training import model_traits as model_traits_module
from bapo.training.model_traits import model_traits
from bapo.training.native_layers import why_no_library
from tests.rollout_models import tiny_model
from tests.unit.training.helpers import (
    applied_gradients,
    batch_of,
    example_batch,
    make_learner,
    ragged_group,
    sampled_by,
)

needs_compiler = pytest.mark.skipif(bool(why_no_library()), reason=why_no_library())

SMALL = {
    "vocab_size": 28,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}


def model_of(kind):
    torch.manual_seed(0)
    makers = {
        "llama": lambda: tiny_model(),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=None)),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=28,
                n_positions=64,
                n_embd=16,
                n_layer=2,
                n_head=2,
                bos_token_id=None,
                eos_token_id=1,
            )
        ),
    }
    return makers[kind]().eval()


def update_of(model, batch, **settings):
    """The gradients of one update, and its report."""
    learner = make_learner(model, **settings)
    with applied_gradients() as found:
        report = learner.update(batch)
    return found[0], report


def assert_same_update(first, second, tolerance):
    (ours, our_report), (theirs, their_report) = first, second
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert max(one.abs().max() for one in ours) > 1e-3
    assert our_report.loss == pytest.approx(their_report.loss, abs=tolerance)
    assert our_report.objective == pytest.approx(their_report.objective, abs=10 * tolerance)
    assert our_report.forward_tokens == their_report.forward_tokens
    assert our_report.backward_tokens == their_report.backward_tokens


def long_prompt_batch(model, *, temperature=1.0):
    """Groups of 6 with prompts longer than their completions, so that sharing pays."""
    groups = []
    for seed in (1, 2, 3):
        group = ragged_group(f"p{seed}", "110100", seed=seed, version=-2, temperature=temperature)
        prompt = np.random.default_rng(seed).integers(2, 28, 9 + seed).astype(np.int32)
        rollout = copy.copy(group.rollout)
        object.__setattr__(rollout, "prompt_token_ids", prompt)
        object.__setattr__(group, "rollout", rollout)
        groups.append(sampled_by(model, group, shift=0.1))
    return batch_of(*groups)


@pytest.fixture
def no_compiler(monkeypatch):
    """Packs are read under a mask."""
    monkeypatch.setattr(model_traits_module, "why_no_library", lambda: "no compiler")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("masked", [False, True])
def test_sharing_prompts_gives_the_update_of_rows_by_themselves(kind, temperature, masked, request):
    """Loss, gradients, metrics and counted tokens; the groups are stale, so that the proximal pass
    shares too."""
    if masked:
        request.getfixturevalue("no_compiler")
    model = model_of(kind)
    batch = long_prompt_batch(model, temperature=temperature)
    learner = make_learner(copy.deepcopy(model))
    assert learner.sharing_refused == ""
    plain = update_of(copy.deepcopy(model), batch, share_prompts=False)
    for budget in (None, 40):
        shared = update_of(copy.deepcopy(model), batch, micro_batch_tokens=budget)
        assert_same_update(shared, plain, 1e-5)


def test_in_float64_sharing_prompts_changes_nothing_beyond_its_rounding():
    model = model_of("llama").double()
    rows = long_prompt_batch(model)
    plain = update_of(copy.deepcopy(model), rows, share_prompts=False)
    shared = update_of(copy.deepcopy(model), rows)
    for one, other in zip(shared[0], plain[0], strict=True):
        # Log-probabilities themselves are float32.
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@contextmanager
def given_to(model):
    """Collects what a model's decoder is given from here on."""
    found = []
    handle = model.model.register_forward_pre_hook(
        lambda _, __, given: found.append(given), with_kwargs=True
    )
    yield found
    handle.remove()


def test_shared_prompts_are_really_read_once():
    """Six rows with prompts of 10: the module sees the prompt once instead of six times."""
    model = model_of("llama")
    batch = long_prompt_batch(model)
    seen = {}
    for share in (True, False):
        watched = copy.deepcopy(model)
        learner = make_learner(watched, share_prompts=share)
        with given_to(watched) as given:
            learner.update(batch)
        seen[share] = sum(one["input_ids"].numel() for one in given)
    assert seen[True] < 0.6 * seen[False]


@needs_compiler
def test_attention_that_knows_packs_takes_them_in_one_line_without_padding():
    """Three groups: prompts of 10, 11 and 12 tokens once each, completions without their last."""
    model = model_of("llama")
    batch = long_prompt_batch(model)
    completions = [one for entry in batch.entries for one in entry.group.rollout.completions]
    learner = make_learner(model)
    with given_to(model) as given:
        learner.update(batch)
    proximal, loss = given
    tokens = 10 + 11 + 12 + sum(len(one.token_ids) - 1 for one in completions)
    assert proximal["input_ids"].shape == loss["input_ids"].shape == (1, tokens)
    assert loss["attention_mask"].shape == (1, 1, 1, tokens)


def in_bfloat16(model):
    return model.bfloat16()


def eager(model):
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("change", [in_bfloat16, eager])
def test_what_c_does_not_compute_is_read_under_a_mask(change):
    model = change(model_of("llama"))
    batch = long_prompt_batch(model)
    learner = make_learner(model)
    with given_to(model) as given:
        learner.update(batch)
    assert learner.sharing_refused == ""
    assert {one["attention_mask"].dtype for one in given} == {model.dtype}


@pytest.fixture
def bf16():
    """An accelerator in mixed precision; a process has one state for all of its accelerators."""
    AcceleratorState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()


def test_under_mixed_precision_packs_are_read_under_a_mask(bf16):
    """Weights are float32, but what attention is given is not."""
    model = model_of("llama")
    batch = long_prompt_batch(model)
    learner = make_learner(model, accelerator=bf16)
    with given_to(model) as given:
        learner.update(batch)
    assert {one["attention_mask"].dtype for one in given} == {torch.float32}


def sliding():
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4))


def alternating():
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=4))


def recurrent():
    return MambaForCausalLM(
        MambaConfig(
            vocab_size=28,
            hidden_size=16,
            state_size=4,
            num_hidden_layers=2,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


class DeafToPositions(type(tiny_model())):
    """A model that counts positions its own way, whatever it is told."""

    def forward(self, *args, position_ids=None, **kwargs):
        return super().forward(*args, **kwargs)


class DeafToMasks(type(tiny_model())):
    """A model that is causal and takes no mask from outside."""

    def forward(self, *args, attention_mask=None, **kwargs):
        return super().forward(*args, **kwargs)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (sliding, "do not see all tokens"),
        (alternating, "do not see all tokens"),
        (recurrent, "do not see all tokens"),
        (lambda: DeafToPositions(tiny_model().config), "come out different"),
        (lambda: DeafToMasks(tiny_model().config), "come out different"),
    ],
)
def test_a_model_that_reads_packs_differently_is_refused_with_the_reason(make, reason):
    torch.manual_seed(0)
    model = make().eval()
    learner = make_learner(copy.deepcopy(model))
    assert reason in learner.sharing_refused
    batch = long_prompt_batch(model)
    switched_off = update_of(copy.deepcopy(model), batch, share_prompts=False)
    assert_same_update(update_of(copy.deepcopy(model), batch), switched_off, 0.0)


def test_nothing_is_refused_where_nothing_was_asked_for():
    assert make_learner(sliding(), share_prompts=False).sharing_refused == ""


def test_a_model_with_several_end_tokens_is_tried_like_any_other():
    """Llama 3's configuration names its end tokens in a list, which no set of tokens can hold."""
    traits = model_traits(tiny_model(eos_token_id=[1, 27]))
    assert traits.sharing_refused == ""
    assert traits.head is not None


def test_a_head_that_does_more_than_multiply_stays_in_the_model():
    """Gemma 2 bends its logits; Llama does not."""
    torch.manual_seed(0)
    bent = Gemma2ForCausalLM(Gemma2Config(**SMALL, final_logit_softcapping=0.5)).eval()
    with torch.no_grad():
        bent.lm_head.weight.mul_(50.0)
    assert model_traits(bent).head is None
    straight = tiny_model()
    assert model_traits(straight).head is straight.lm_head
    assert "forward" not in vars(straight.lm_head)


def test_a_trial_leaves_the_model_as_it_was():
    model = tiny_model().train()
    model_traits(model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_chunks_of_logits_change_no_update(monkeypatch):
    """Two tokens' logits at a time, against all at once."""
    model = model_of("llama")
    batch = example_batch(model, count=3, version=-3, shift=0.1)
    whole = update_of(copy.deepcopy(model), batch)
    two_tokens = {"entropy": True, "chunk_elements": 2 * 28}
    monkeypatch.setattr(head_logps, "__kwdefaults__", two_tokens)
    chunked = update_of(copy.deepcopy(model), batch)
    assert_same_update(chunked, whole, 1e-6)


@contextmanager
def kept_for_backward():
    """Collects the sizes of all tensors that autograd keeps in the block."""
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("share", [True, False])
def test_gradient_checkpointing_gives_the_same_update_and_keeps_less(share):
    model = model_of("llama")
    batch = long_prompt_batch(model)
    kept = {}
    updates = {}
    for checkpointing in (True, False):
        with kept_for_backward() as sizes:
            updates[checkpointing] = update_of(
                copy.deepcopy(model),
                batch,
                gradient_checkpointing=checkpointing,
                share_prompts=share,
            )
        kept[checkpointing] = sum(sizes)
    assert kept[True] < 0.5 * kept[False]
    assert_same_update(updates[True], updates[False], 1e-6)


def test_the_dropout_that_a_checkpointed_layer_does_by_itself_stays_off():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "vocab_size": 28}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
    model = OPTForCausalLM(OPTConfig(**sizes, **depth, dropout=0.5, init_std=0.2)).eval()
    batch = long_prompt_batch(model)
    plain = update_of(copy.deepcopy(model), batch)
    assert_same_update(update_of(model, batch, gradient_checkpointing=True), plain, 1e-6)
    assert {layer.dropout for layer in model.model.decoder.layers} == {0.5}


def test_layers_are_in_training_mode_only_while_they_are_checkpointed():
    model = tiny_model()
    batch = example_batch(model, version=-1)
    learner = make_learner(model, gradient_checkpointing=True)
    modes = []
    model.model.layers[0].register_forward_pre_hook(lambda layer, _: modes.append(layer.training))
    learner.update(batch)
    assert modes == [False, True]  # the proximal pass, then the one with gradient
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("share", [True, False])
def test_a_model_that_gives_logits_of_all_tokens_whatever_it_is_asked_for_is_scored_alike(share):
    """Some swallow `logits_to_keep` among other arguments, and nothing says so."""
    model = model_of("llama")
    batch = long_prompt_batch(model)
    plain = update_of(copy.deepcopy(model), batch, share_prompts=share)
    deaf = copy.deepcopy(model)
    forward = deaf.forward
    deaf.forward = lambda *, logits_to_keep, **arguments: forward(**arguments)
    assert_same_update(update_of(deaf, batch, share_prompts=share), plain, 1e-6)


def test_a_model_without_a_linear_head_is_scored_through_its_own():
    """A head of two layers is used as it is, and the update is the same."""
    model = model_of("llama")
    batch = example_batch(model, version=-3, shift=0.1)
    plain = update_of(copy.deepcopy(model), batch)
    wrapped = copy.deepcopy(model)
    inner = wrapped.lm_head
    wrapped.lm_head = nn.Sequential(inner)
    assert model_traits(wrapped).head is None
    assert_same_update(update_of(wrapped, batch), plain, 1e-6)
