"""A whole run that trains a LoRA adapter, through the command line and the real files."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from bapo.cli import app
from bapo.config import ModelSettings
from bapo.errors import ModelError, RunFolderError, SettingError
from bapo.rollout import load_policy
from bapo.training import train
from tests.resumable_runs import DiedError, DyingProgress, assert_same_run, recipe_of
from tests.resumable_runs import make_ingredients as make_plain_ingredients
from tests.rollout_models import character_tokenizer, save_policy, tiny_model

ADAPTER = ("adapter.rank=2", "adapter.alpha=4")
STEPS = 4
SHORT = (f"steps={STEPS}", "training.checkpoint_every=2", "evaluation.every=0")
IDS = torch.tensor([[3, 4, 5, 9, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ingredients with a base large enough for sizes to say something, and a finished run."""
    place = tmp_path_factory.mktemp("adapter")
    make_plain_ingredients(place)
    shutil.rmtree(place / "base")
    save_policy(place / "base", tiny_model("llama", hidden_size=64))
    train(recipe_of(place, *SHORT, *ADAPTER), place / "run")
    return place


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def policy_of(path):
    return load_policy(ModelSettings(path=str(path), device="cpu"))


def test_the_adapter_is_trained_and_its_model_is_not(folder):
    model = policy_of(folder / "run" / "model").model
    base = policy_of(folder / "base").model.state_dict()
    learned = dict(model.named_parameters())
    for name, value in base.items():
        inside = name.replace("_proj.weight", "_proj.base_layer.weight")
        assert torch.equal(learned[inside], value), name
    moved = [name for name, value in learned.items() if "lora_B" in name and value.abs().max() > 0]
    assert len(moved) == 14
    metrics = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    assert sum(line["updates"] for line in metrics) >= STEPS


def test_checkpoints_hold_the_adapter_and_not_the_model(folder, tmp_path):
    train(recipe_of(folder, *SHORT), tmp_path / "whole")

    def numbers(run):
        checkpoint = run / "checkpoints" / "step-000004"
        names = ("model", "optimizer", "behavior")
        return sum((checkpoint / f"{name}.safetensors").stat().st_size for name in names)

    weights = (folder / "base" / "model.safetensors").stat().st_size
    assert numbers(tmp_path / "whole") > 3.9 * weights  # weights, two moments, delayed weights
    assert numbers(folder / "run") < 0.5 * weights


def test_a_killed_run_resumes_to_the_same_bits(folder, tmp_path):
    recipe = recipe_of(folder, *SHORT, *ADAPTER)
    with pytest.raises(DiedError):
        train(recipe, tmp_path / "run", progress=DyingProgress(3))
    train(recipe, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", folder / "run", STEPS)


def test_a_run_is_not_resumed_over_another_model(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    recipe = recipe_of(folder, *SHORT, *ADAPTER, f"model.path={copy / 'base'}")
    with pytest.raises(DiedError):
        train(recipe, tmp_path / "run", progress=DyingProgress(3))
    save_policy(copy / "base", tiny_model("llama", hidden_size=64, seed=1))
    with pytest.raises(RunFolderError, match="frozen weights under its adapter are not those"):
        train(recipe, tmp_path / "run", resume=True)


def test_peft_loads_the_result_and_merging_gives_a_plain_model(folder, tmp_path):
    trained = logits(policy_of(folder / "run" / "model").model)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = PeftModel.from_pretrained(base, str(folder / "run" / "model")).eval()
    assert torch.allclose(logits(theirs), trained, atol=1e-5)

    done = invoke("merge", folder / "run", "--output", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    again = invoke("merge", tmp_path / "merged", "--output", tmp_path / "twice")
    assert isinstance(again.exception, ModelError)
    assert "has no adapter to merge" in str(again.exception)


def test_a_run_that_trained_an_adapter_is_measured_inspected_and_reported(folder, tmp_path):
    verifier = f"reward.verifier={folder / 'verifier.py'}:verify"
    done = invoke("eval", folder / "run", verifier, "--samples", 2, "--prompts", 3)
    assert done.exit_code == 0, done.output
    assert "pass@2" in done.output
    assert invoke("inspect", folder / "run").exit_code == 0
    assert invoke("report", folder / "run", "--output", tmp_path / "r.html").exit_code == 0


def test_a_saved_adapter_is_trained_on(folder, tmp_path):
    start = f"model.path={folder / 'run' / 'model'}"
    train(recipe_of(folder, "steps=1", "training.checkpoint_every=0", start), tmp_path / "run")
    before = dict(policy_of(folder / "run" / "model").model.named_parameters())
    after = dict(policy_of(tmp_path / "run" / "model").model.named_parameters())
    assert all(torch.equal(before[n], after[n]) == ("lora" not in n) for n in before)
    with pytest.raises(SettingError, match="is an adapter already"):
        train(recipe_of(folder, start, "adapter.rank=4"), tmp_path / "other")


def test_frozen_weights_may_be_in_bfloat16_and_trained_ones_may_not(folder, tmp_path):
    half = ("steps=1", "training.checkpoint_every=0", "model.dtype=bfloat16")
    train(recipe_of(folder, *half, *ADAPTER, "rollout.probe_tolerance=0.1"), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert metrics["updates"] >= 1
    lora = dict(policy_of(tmp_path / "run" / "model").model.named_parameters())
    assert any(value.abs().max() > 0 for name, value in lora.items() if "lora_B" in name)
    with pytest.raises(SettingError, match="train an adapter over bfloat16 weights"):
        train(recipe_of(folder, *half), tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("adapter.rank=4", "adapter.dropout=0.1"), "'adapter.dropout' is 0.1, but must be 0"),
        (("adapter.alpha=4",), "'adapter.rank' is 0, which means that there is none"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused_with_the_recipe(folder, settings, reason):
    with pytest.raises(SettingError, match=reason):
        recipe_of(folder, *settings)


def test_quantised_weights_are_not_trained_without_an_adapter(folder, tmp_path, monkeypatch):
    policy = policy_of(folder / "base")
    policy.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    monkeypatch.setattr("bapo.training.preparation.load_policy", lambda settings: policy)
    with pytest.raises(SettingError, match="are quantised, which cannot be trained; train an ada"):
        train(recipe_of(folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_over_8_bit_weights_is_trained_and_resumes_bit_for_bit(folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    rounded = ("model.quantization=8bit", "rollout.probe_tolerance=0.5")
    recipe = recipe_of(folder, *SHORT, *ADAPTER, *rounded)
    train(recipe, tmp_path / "whole")
    lora = dict(policy_of(tmp_path / "whole" / "model").model.named_parameters())
    assert any(value.abs().max() > 0 for name, value in lora.items() if "lora_B" in name)
    with pytest.raises(DiedError):
        train(recipe, tmp_path / "cut", progress=DyingProgress(3))
    train(recipe, tmp_path / "cut", resume=True)
    assert_same_run(tmp_path / "cut", tmp_path / "whole", STEPS)


def test_the_character_tokenizer_is_saved_beside_the_adapter(folder):
    read = policy_of(folder / "run" / "model").tokenizer
    assert read("3+4=")["input_ids"] == character_tokenizer()("3+4=")["input_ids"]
