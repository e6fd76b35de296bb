import json
import traceback

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from bapo.config.settings import ModelSettings
from bapo.errors import BapoError, ModelError, SettingError
from bapo.rollout.engine import ScoreRow
from bapo.rollout.loading import embedded_models, load_policy, resolve_location
from bapo.types import FinishReason, Prompt
from tests.rollout_models import END, character_tokenizer, save_policy, tiny_engine, tiny_model


def settings(path, **changes) -> ModelSettings:
    return ModelSettings(path=str(path), **({"device": "cpu"} | changes))


def refusal(path, **changes) -> str:
    """The message of the refusal, which must be one sentence on one line."""
    with pytest.raises(ModelError) as caught:
        load_policy(settings(path, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    return message


def test_a_model_with_longrope_has_the_positions_in_which_company_changes_nothing(tmp_path):
    """Beyond 12 of them one long row would have the keys of all rows turned otherwise."""
    rotation = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "factor": 4.0,
        "original_max_position_embeddings": 12,
    }
    model = tiny_model("phi3", rope_parameters=rotation, original_max_position_embeddings=12)
    policy = load_policy(settings(save_policy(tmp_path, model)))
    assert policy.max_positions == 12
    engine = tiny_engine(policy, max_new_tokens=7)
    prompts = [Prompt("short", "1", {}), Prompt("long", "12+3=", {})]
    arguments = {"version": 0, "group_size": 4, "step": 1, "seed": 2, "temperature": 1.0}
    (alone,) = engine.sample(prompts[:1], **arguments)
    beside, _ = engine.sample(prompts, **arguments)
    rows = [ScoreRow(alone.prompt_token_ids, one.token_ids) for one in alone.completions]
    for one, other, scores in zip(
        alone.completions, beside.completions, engine.score(rows, version=0), strict=True
    ):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert abs(one.behavior_logps - scores).max() < 1e-5
    with pytest.raises(SettingError, match="the model has only 12 positions"):
        tiny_engine(policy, max_new_tokens=12)


def test_a_saved_model_comes_back_with_its_weights_in_evaluation_mode(tmp_path):
    model = tiny_model("llama")
    policy = load_policy(settings(save_policy(tmp_path, model)))
    assert not policy.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(policy.model.state_dict()[name], value)
    assert policy.end_token_ids == (END,)
    assert policy.max_positions == 128
    assert policy.name == str(tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma", "phi"])
def test_the_tokenizer_reads_as_the_one_that_was_saved(tmp_path, architecture):
    policy = load_policy(settings(save_policy(tmp_path, tiny_model(architecture))))
    text = "3 5 7 2>22\n"
    assert policy.tokenizer(text)["input_ids"] == character_tokenizer()(text)["input_ids"]
    assert len(policy.tokenizer) == len(character_tokenizer())


@pytest.mark.parametrize("shown", [True, False])
def test_loading_shows_no_bars_and_leaves_the_users_choice_as_it_was(tmp_path, capfd, shown):
    folder = save_policy(tmp_path, tiny_model())
    before = transformers_logging.is_progress_bar_enabled()
    switches = transformers_logging.disable_progress_bar, transformers_logging.enable_progress_bar
    switches[shown]()
    capfd.readouterr()
    try:
        load_policy(settings(folder))
        told = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    finally:
        switches[before]()
    assert told == (shown, shown)
    assert capfd.readouterr().err == ""


def test_the_number_type_is_the_one_asked_for(tmp_path):
    save_policy(tmp_path, tiny_model())
    policy = load_policy(settings(tmp_path, dtype="bfloat16"))
    assert {value.dtype for value in policy.model.parameters()} == {torch.bfloat16}


def test_dropout_is_off_even_in_training_mode(tmp_path):
    save_policy(tmp_path, tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5))
    model = load_policy(settings(tmp_path)).model
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        quiet = model(ids).logits
        assert torch.equal(quiet, model.train()(ids).logits)


def test_all_end_tokens_of_the_generation_config_count(tmp_path):
    model = tiny_model()
    model.generation_config.eos_token_id = [7, END]
    assert load_policy(settings(save_policy(tmp_path, model))).end_token_ids == (END, 7)


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tokenizer = character_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_policy(settings(tmp_path)).tokenizer.pad_token_id == END


def test_a_missing_folder_is_refused_in_one_sentence(tmp_path):
    message = refusal(tmp_path / "nowhere")
    assert "nowhere' does not exist; name a folder made by save_pretrained" in message


def test_the_traceback_of_a_refusal_shows_no_other_librarys(tmp_path):
    folder = save_policy(tmp_path, tiny_model())
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_policy(settings(folder))
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert "transformers/" not in shown


def test_an_empty_name_is_refused():
    assert "does not exist" in refusal("")


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "has no config.json" in refusal(tmp_path)


def test_an_unknown_embedded_model_is_refused_and_the_known_ones_are_named():
    message = refusal("embedded:nothing")
    assert message.startswith("There is no model 'embedded:nothing'; the embedded models are: ")


def test_embedded_names_lead_to_their_folder(tmp_path, monkeypatch):
    save_policy(tmp_path / "assets" / "toy", tiny_model())
    (tmp_path / "assets" / "not-a-model").mkdir()
    monkeypatch.setattr("bapo.rollout.loading.resources.files", lambda package: tmp_path)
    assert embedded_models() == ("toy",)
    assert resolve_location("embedded:toy") == str(tmp_path / "assets" / "toy")
    assert load_policy(settings("embedded:toy")).name == "embedded:toy"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_a_missing_tokenizer_is_refused(tmp_path, architecture):
    tiny_model(architecture).save_pretrained(tmp_path)
    assert "tokenizer" in refusal(tmp_path)


def test_a_tokenizer_that_knows_more_tokens_than_the_model_is_refused(tmp_path):
    save_policy(tmp_path, tiny_model())
    character_tokenizer("0123456789abcdefghijklmnopqrstuvwxyz").save_pretrained(tmp_path)
    assert "has token id 37, but the model has only 32 embeddings" in refusal(tmp_path)


def test_damaged_weights_are_refused(tmp_path):
    save_policy(tmp_path, tiny_model())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert "could not be loaded" in refusal(tmp_path)


def test_missing_weights_are_refused(tmp_path):
    save_policy(tmp_path, tiny_model())
    (tmp_path / "model.safetensors").unlink()
    assert "could not be loaded" in refusal(tmp_path)


def test_a_checkpoint_that_lacks_a_tensor_is_refused_and_not_filled_with_random_numbers(tmp_path):
    model = tiny_model()
    weights = {name: value for name, value in model.state_dict().items() if "o_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    character_tokenizer().save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "lack 2 tensors, the first of them 'model.layers.0.self_attn.o_proj.weight'" in message


@pytest.mark.parametrize("content", ["{", json.dumps({"model_type": "no-such-architecture"})])
def test_a_config_that_cannot_be_read_is_refused(tmp_path, content):
    save_policy(tmp_path, tiny_model())
    (tmp_path / "config.json").write_text(content)
    assert "could not be read" in refusal(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    save_policy(tmp_path, tiny_model())
    assert "sees no CUDA device" in refusal(tmp_path, device="cuda")


def test_refusals_are_errors_of_the_user():
    assert ModelError.exit_code == 2
    assert issubclass(ModelError, (BapoError, ValueError))


def sampled(policy):
    """Completions of one prompt, and the largest gap of their log-probs to a full forward pass."""
    engine = tiny_engine(policy)
    (rollout,) = engine.sample(
        [Prompt("p", "12+3=", {})], version=0, group_size=8, step=1, seed=0, temperature=1.0
    )
    rows = [ScoreRow(rollout.prompt_token_ids, one.token_ids) for one in rollout.completions]
    scores = engine.score(rows, version=0)
    pairs = zip(scores, rollout.completions, strict=True)
    return rollout.completions, max(abs(s - one.behavior_logps).max() for s, one in pairs)


def test_without_any_end_token_completions_end_at_the_limit(tmp_path):
    tiny_model(eos_token_id=None).save_pretrained(tmp_path)
    tokenizer = character_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    policy = load_policy(settings(tmp_path))
    assert policy.end_token_ids == ()
    completions, gap = sampled(policy)
    assert {len(one.token_ids) for one in completions} == {12}
    assert {one.finish_reason for one in completions} == {FinishReason.LENGTH}
    assert gap < 1e-5


def test_a_tokenizer_without_pad_and_end_token_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tokenizer = character_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert "has neither a pad token nor an end token; set one of them" in refusal(tmp_path)


def test_a_vocabulary_padded_beyond_the_tokenizer_is_sampled_whole(tmp_path):
    """The padding is part of the distribution: leaving it out would falsify log-probabilities."""
    policy = load_policy(settings(save_policy(tmp_path, tiny_model(vocab_size=64))))
    completions, gap = sampled(policy)
    assert max(int(one.token_ids.max()) for one in completions) > len(policy.tokenizer)
    assert gap < 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_checkpoint_in_half_precision_is_loaded_in_float32(tmp_path, kind):
    save_policy(tmp_path, tiny_model().to(kind))
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(kind)[6:]
    policy = load_policy(settings(tmp_path))
    assert {value.dtype for value in policy.model.parameters()} == {torch.float32}
    assert sampled(policy)[1] < 1e-5


BASE = {
    "vocab_size": len(character_tokenizer()),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "eos_token_id": END,
    "pad_token_id": 0,
}


def model_of(kind, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes)).eval()


MIXTURES = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 6},
}


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_of_experts_are_sampled_like_any_other(tmp_path, kind):
    sizes = {"num_key_value_heads": 2, "head_dim": 8}
    changes = {**BASE, **sizes, **MIXTURES[kind]}
    policy = load_policy(settings(save_policy(tmp_path, model_of(kind, **changes))))
    assert sampled(policy)[1] < 1e-4


WITHOUT_CACHE = {
    "rwkv": ({"num_attention_heads": None}, "is a RwkvForCausalLM, which keeps no keys and values"),
    "mamba": (
        {"num_attention_heads": None},
        "is a MambaForCausalLM, which keeps no keys and value",
    ),
    "lfm2": (
        {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
        "layers of the kind 'conv'",
    ),
    "llama4_text": (
        {"num_key_value_heads": 2, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "layers of the kind 'chunked_attention'",
    ),
}


@pytest.mark.parametrize("kind", WITHOUT_CACHE)
def test_models_without_a_cache_of_all_keys_and_values_are_refused(tmp_path, kind):
    changes, reason = WITHOUT_CACHE[kind]
    given = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
    policy = load_policy(settings(save_policy(tmp_path, model_of(kind, **given))))
    with pytest.raises(ModelError, match=reason):
        tiny_engine(policy)
