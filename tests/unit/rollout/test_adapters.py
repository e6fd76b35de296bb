"""LoRA adapters: what is added, saved, loaded, merged and refused."""

import json
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bapo.config import AdapterSettings, ModelSettings
from bapo.errors import ModelError
from bapo.rollout import add_adapter, has_adapter, load_policy, merge_adapter, save_adapter
from bapo.rollout.decoder import supports
from bapo.rollout.embedded import EmbeddedEngine
from bapo.rollout.engine import ScoreRow
from bapo.rollout.versions import VersionedWeights
from bapo.types import Prompt
from tests.picture_models import figure_prompts, loaded_picture_policy, picture_engine
from tests.rollout_models import character_tokenizer, save_policy, tiny_engine, tiny_model
from tests.rollout_models import tiny_policy as plain_policy

IDS = torch.tensor([[3, 4, 5, 9, 2]])


def settings(path, **changes):
    return ModelSettings(path=str(path), **({"device": "cpu"} | changes))


def adapted(folder, *, architecture="llama", learned=True, **changes):
    """A saved model with an adapter, whose zero half is filled as if it had been trained."""
    policy = load_policy(settings(save_policy(folder, tiny_model(architecture, **changes))))
    add_adapter(policy.model, policy.base, AdapterSettings(rank=4, alpha=8.0), seed=3)
    if learned:
        generator = torch.Generator().manual_seed(5)
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.data.normal_(0.0, 0.2, generator=generator)
    return policy


def saved(policy, folder):
    save_adapter(policy.model, folder)
    return folder


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(tmp_path):
    policy = adapted(tmp_path, learned=False)
    assert torch.equal(logits(policy.model), logits(tiny_model("llama")))
    trained = [name for name, one in policy.model.named_parameters() if one.requires_grad]
    # two layers, seven linear ones in each (q, k, v, o, gate, up, down), two matrices for each
    assert len(trained) == 28
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("lm_head" in name for name in trained)


def test_an_adapter_follows_from_its_seed_and_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    first, second = adapted(tmp_path / "a"), adapted(tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), before)
    for (name, one), (_, other) in zip(
        first.model.named_parameters(), second.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_the_samplers_log_probs_equal_those_of_a_full_forward_pass(tmp_path, architecture):
    policy = adapted(tmp_path, architecture=architecture)
    assert not supports(policy.model)  # the hand-written decoder does not know these layers
    prompts = [Prompt("a", "12+3=", {}), Prompt("b", "(7-2)*8>", {})]
    rollouts = tiny_engine(policy).sample(
        prompts, version=0, group_size=3, step=1, seed=0, temperature=0.8
    )
    for rollout in rollouts:
        for one in rollout.completions:
            row = np.concatenate([rollout.prompt_token_ids, one.token_ids]).astype(np.int64)
            with torch.no_grad():
                whole = policy.model(input_ids=torch.from_numpy(row)[None]).logits[0] / 0.8
            start = len(rollout.prompt_token_ids)
            picked = torch.log_softmax(whole[start - 1 : -1], -1).gather(
                1, torch.from_numpy(row[start:])[:, None]
            )
            assert np.abs(picked[:, 0].numpy() - one.behavior_logps).max() < 1e-5


def test_a_version_of_the_policy_is_the_adapter_alone(tmp_path):
    policy = adapted(tmp_path)
    live = {n: p.detach() for n, p in policy.model.named_parameters() if p.requires_grad}
    weights = VersionedWeights(policy.model)
    weights.publish(0, {name: torch.zeros_like(value) for name, value in live.items()})
    now = logits(policy.model)
    with weights.using(0):
        assert torch.equal(logits(policy.model), logits(tiny_model("llama")))
    assert torch.equal(logits(policy.model), now)
    with pytest.raises(ValueError, match="lack"):
        weights.publish(1, {})


def test_peft_itself_loads_what_is_saved(tmp_path):
    policy = adapted(tmp_path / "base")
    folder = saved(policy, tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, str(folder)).eval()
    assert torch.allclose(logits(theirs), logits(policy.model), atol=1e-5)


def test_an_adapter_made_by_peft_is_a_model_path(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(save_policy(tmp_path / "base", tiny_model()))
    config = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.3, init_lora_weights=False
    )
    theirs = get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    policy = load_policy(settings(tmp_path / "adapter"))
    assert has_adapter(policy.model)
    assert (policy.name, policy.base) == (str(tmp_path / "adapter"), str(tmp_path / "base"))
    assert torch.allclose(logits(policy.model), logits(theirs), atol=1e-6)
    assert torch.equal(logits(policy.model.train()), logits(policy.model.eval()))  # no dropout
    trained = [name for name, one in policy.model.named_parameters() if one.requires_grad]
    assert len(trained) == 8


def test_a_merged_model_is_a_plain_one_that_computes_the_same(tmp_path):
    policy = adapted(tmp_path)
    before = logits(policy.model)
    merge_adapter(policy.model)
    assert not has_adapter(policy.model)
    assert list(policy.model.state_dict()) == list(tiny_model("llama").state_dict())
    assert torch.allclose(logits(policy.model), before, atol=1e-5)
    assert not torch.equal(logits(policy.model), logits(tiny_model("llama")))


def test_an_adapter_over_half_precision_is_trained_in_float32(tmp_path):
    save_policy(tmp_path, tiny_model())
    policy = load_policy(settings(tmp_path, dtype="bfloat16"))
    add_adapter(policy.model, policy.base, AdapterSettings(rank=2), seed=0)
    kinds = {(one.requires_grad, one.dtype) for one in policy.model.parameters()}
    assert kinds == {(False, torch.bfloat16), (True, torch.float32)}
    assert torch.isfinite(logits(policy.model)).all()


def test_named_layers_alone_get_an_adapter(tmp_path):
    policy = load_policy(settings(save_policy(tmp_path, tiny_model())))
    only = AdapterSettings(rank=2, target_modules=("q_proj",))
    add_adapter(policy.model, policy.base, only, seed=0)
    trained = [name for name, one in policy.model.named_parameters() if one.requires_grad]
    assert len(trained) == 4
    assert all("q_proj" in name for name in trained)


def refusal(call):
    with pytest.raises(ModelError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_layers_that_are_not_there_are_refused():
    policy = plain_policy()
    wrong = AdapterSettings(rank=2, target_modules=("c_attn",))
    message = refusal(lambda: add_adapter(policy.model, "somewhere", wrong, seed=0))
    assert "none of the layers that 'adapter.target_modules' names (c_attn)" in message


def test_a_tied_head_is_refused():
    model = tiny_model("llama", tie_word_embeddings=True)
    wrong = AdapterSettings(rank=2, target_modules=("lm_head",))
    assert "shares its weights" in refusal(lambda: add_adapter(model, "somewhere", wrong, seed=0))


def test_without_peft_the_cure_is_named(tmp_path, monkeypatch):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    message = refusal(lambda: load_policy(settings(folder)))
    assert message.endswith("is an adapter; install it with: pip install 'bapo[peft]'.")
    model = tiny_model()
    message = refusal(lambda: add_adapter(model, "x", AdapterSettings(rank=8), seed=0))
    assert message.startswith("PEFT is not installed, but 'adapter.rank' is 8")


def test_an_adapter_of_another_model_is_refused(tmp_path):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    save_policy(tmp_path / "base", tiny_model("llama", hidden_size=64))
    assert "it was made for another model" in refusal(lambda: load_policy(settings(folder)))


def test_an_adapter_that_lacks_a_tensor_is_refused(tmp_path):
    policy = adapted(tmp_path / "base")
    folder = saved(policy, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = [*config["target_modules"], "lm_head"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    message = refusal(lambda: load_policy(settings(folder)))
    assert "'lm_head.lora_A.default.weight' is missing" in message


def test_an_adapter_that_is_damaged_or_a_pickle_is_refused(tmp_path):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(b"damaged")
    assert "it is damaged" in refusal(lambda: load_policy(settings(folder)))
    weights.rename(folder / "adapter_model.bin")
    assert "pickles" in refusal(lambda: load_policy(settings(folder)))


def test_an_adapter_that_does_not_name_its_model_is_refused(tmp_path):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    for base, reason in ((None, "does not say which model"), (str(tmp_path / "gone"), "not exist")):
        changed = config | {"base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        assert reason in refusal(lambda: load_policy(settings(folder)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
        ({"peft_type": "IA3", "feedforward_modules": []}, "of the kind IA3"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path, change, reason):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert reason in refusal(lambda: load_policy(settings(folder)))


def test_an_adapters_own_tokenizer_goes_before_its_models(tmp_path):
    folder = saved(adapted(tmp_path / "base"), tmp_path / "adapter")
    assert load_policy(settings(folder)).tokenizer.chat_template is None
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    assert load_policy(settings(folder)).tokenizer.chat_template is not None


def test_quantised_weights_without_bitsandbytes_are_refused(tmp_path, monkeypatch):
    save_policy(tmp_path, tiny_model())
    monkeypatch.setattr("bapo.rollout.loading.find_spec", lambda name: None)
    message = refusal(lambda: load_policy(settings(tmp_path, quantization="4bit")))
    assert message == (
        "'model.quantization' is 4bit, but bitsandbytes is not installed; install it with: pip "
        "install bitsandbytes."
    )


def test_four_bits_on_a_cpu_are_refused(tmp_path, monkeypatch):
    save_policy(tmp_path, tiny_model())
    monkeypatch.setattr("bapo.rollout.loading.find_spec", lambda name: object())
    message = refusal(lambda: load_policy(settings(tmp_path, quantization="4bit")))
    assert "gives wrong gradients; set it to 8bit, or use a CUDA device" in message


def test_an_engine_scores_with_the_published_adapter(tmp_path):
    policy = adapted(tmp_path)
    engine: EmbeddedEngine = tiny_engine(policy)
    row = ScoreRow(np.array([3, 4], np.int32), np.array([5, 9], np.int32))
    now = engine.score([row], version=0)[0]
    silent = {n: torch.zeros_like(p) for n, p in policy.model.named_parameters() if p.requires_grad}
    engine.publish(1, silent)
    assert np.abs(engine.score([row], version=1)[0] - now).max() > 1e-3
    assert np.array_equal(engine.score([row], version=0)[0], now)


def test_an_image_text_model_takes_an_adapter_and_reads_pictures_with_it(tmp_path):
    policy = loaded_picture_policy(tmp_path, "llava")
    add_adapter(policy.model, policy.base, AdapterSettings(rank=2), seed=0)
    for name, value in policy.model.named_parameters():
        if "lora_B" in name:
            value.data.fill_(0.05)
    engine = picture_engine(policy)
    rollouts = engine.sample(
        figure_prompts(2), version=0, group_size=2, step=1, seed=0, temperature=1.0
    )
    for one in rollouts:
        made = one.completions[0]
        row = ScoreRow(one.prompt_token_ids, made.token_ids, one.prompt.images)
        (scored,) = engine.score([row], version=0)
        assert np.abs(scored - made.behavior_logps).max() < 1e-5
