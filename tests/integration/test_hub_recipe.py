"""The recipe for a Hub model on one GPU, on a tiny random model of the same architecture."""

import json
import string
from pathlib import Path

import pytest
import torch

from bapo.config import ModelSettings, find_recipe, load_recipe, load_warmstart_recipe
from bapo.rollout import load_policy
from bapo.tasks import TASKS
from bapo.training import train
from tests.rollout_models import character_tokenizer, tiny_model

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SMALL = (
    "steps=2",
    "task.train_size=8",
    "rollout.max_prompt_tokens=512",
    "rollout.max_new_tokens=12",
    "training.batch_groups=4",
    "training.warmup_steps=0",
    "training.learning_rate=1e-3",
    "adaptation.filter_fresh=false",
    "evaluation.prompts=4",
    "evaluation.samples=2",
    "evaluation.training_prompts=4",
    "evaluation.training_samples=2",
)
# Random text is never right; its length gives the groups some variance to learn from.
VERIFIER = """
def score(completions, **columns):
    return [len(completion) / 100 for completion in completions]
"""


@pytest.fixture
def instruction_model(tmp_path):
    """A Qwen2 model with a chat template, in the format that the Hub delivers."""
    tokenizer = character_tokenizer(string.printable)
    tokenizer.chat_template = TEMPLATE
    model = tiny_model("qwen2", vocab_size=len(tokenizer), max_position_embeddings=640)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_recipe_for_one_gpu_trains_an_adapter_of_its_architecture(instruction_model, tmp_path):
    (tmp_path / "lengths.py").write_text(VERIFIER)
    shipped = load_recipe("countdown-1.5b")
    own = [
        f"model.path={instruction_model}",
        f"reward.verifier={tmp_path / 'lengths.py'}:score",
        "adapter.rank=4",
    ]
    recipe = load_recipe("countdown-1.5b", [*own, *SMALL])

    train(recipe, tmp_path / "run")

    assert shipped.training.mixed_precision == recipe.training.mixed_precision == "bf16"
    assert shipped.model.dtype == recipe.model.dtype == "bfloat16"
    assert shipped.adapter.rank == 32
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 2
    assert first["updates"] == 2
    assert first["grad_norm"] > 0
    assert first["forward_tokens"] > 0  # in bfloat16 the sampler's log-probs are not taken over
    path = str(tmp_path / "run" / "model")
    after = dict(load_policy(ModelSettings(path=path)).model.named_parameters())
    moved = [one for name, one in after.items() if ".lora_B." in name]
    assert len(moved) == 14
    assert all(one.abs().max() > 0 for one in moved)
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    example = json.loads((tmp_path / "run" / "examples.jsonl").read_text().splitlines()[0])
    assert "<answer>" in example["prompt"]


RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_resolves(path):
    if path.stem.endswith("-base"):
        assert load_warmstart_recipe(path).steps >= 1
        return
    recipe = load_recipe(path)
    assert recipe.task.name in TASKS
    if recipe.adapter.rank:
        assert recipe.model.dtype == "bfloat16"
        assert recipe.training.learning_rate == 1e-5


def test_the_recipe_with_the_papers_settings_has_what_its_comment_says():
    recipe = load_recipe("countdown-8gpu")
    training, adaptation = recipe.training, recipe.adaptation
    assert training.batch_groups // training.updates_per_step == 64
    assert (adaptation.behavior_sync_every, adaptation.retry_every) == (5, 5)
    assert (adaptation.hard_capacity, recipe.objective.kl_coefficient) == (128, 0.005)
    assert recipe.steps == 3 * recipe.task.options["train_size"] // training.batch_groups


def test_the_recipe_trains_all_weights_where_its_comment_is_followed(instruction_model, tmp_path):
    (tmp_path / "lengths.py").write_text(VERIFIER)
    comment = (find_recipe("countdown-1.5b")).read_text(encoding="utf-8")
    (line,) = [line for line in comment.splitlines() if line.startswith("#   ")]
    own = [f"model.path={instruction_model}", f"reward.verifier={tmp_path / 'lengths.py'}:score"]
    recipe = load_recipe("countdown-1.5b", [*line.split()[1:], *own, *SMALL])

    train(recipe, tmp_path / "run")

    before = load_policy(ModelSettings(path=str(instruction_model))).model.state_dict()
    after = load_policy(ModelSettings(path=str(tmp_path / "run" / "model"))).model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
