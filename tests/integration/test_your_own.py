"""A user's own model, data and verifier together, through the command line."""

import json
import re
import string
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file
from typer.testing import CliRunner

from bapo.cli import app
from bapo.config import RewardSettings, resolve_recipe
from bapo.errors import BapoError
from bapo.reward import VerifierPool
from bapo.training import train
from tests.rollout_models import character_tokenizer, tiny_model

TEMPLATE = (
    "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
    "{% if not enable_thinking | default(true) %}<think></think>{% endif %}"
)
SMALL = {
    "steps": 2,
    "rollout": {"group_size": 4, "max_new_tokens": 8},
    "reward": {"workers": 1},
    "training": {"batch_groups": 4, "learning_rate": 0.01, "checkpoint_every": 0},
    "evaluation": {"every": 0, "prompts": 3, "samples": 2, "training_prompts": 4, "examples": 2},
    "adaptation": {"filter_fresh": False},
}
TRL_REWARD = '''
def accuracy(prompts, completions, gold, **kwargs):
    """Written for TRL's GRPOTrainer: messages in, floats out."""
    system, user = prompts[0]
    assert (system["role"], user["role"]) == ("system", "user")
    assert user["content"] == f"What is {kwargs['a'][0]}+{kwargs['a'][0]}?"
    contents = [completion[0]["content"] for completion in completions]
    return [sum(char in right for char in text) / 8 for text, right in zip(contents, gold)]


def reads_messages(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


async def slowly(completions, **kwargs):
    return [1.0 for _ in completions]
'''
THOUGHTS = """
def verify(completions, **columns):
    assert all(";" not in text for text in completions)
    return [len(text) % 2 for text in completions]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A chat model, thirty rows in Parquet, a reward function; and the folder they are in."""
    monkeypatch.chdir(tmp_path)
    tokenizer = character_tokenizer(string.printable)
    tokenizer.chat_template = TEMPLATE
    model = tiny_model("qwen2", vocab_size=len(tokenizer), max_position_embeddings=256)
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")
    rows = {"a": list(range(30)), "gold": [str(2 * number) for number in range(30)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), "sums.parquet")
    (tmp_path / "rewards.py").write_text(TRL_REWARD)
    (tmp_path / "thoughts.py").write_text(THOUGHTS)
    return tmp_path


def recipe(**sections):
    """A small recipe on the fixture's files; sections are merged, other keys replaced."""
    given = {
        "model": {"path": "model", "device": "cpu"},
        "task": {
            "name": "dataset",
            "path": "sums.parquet",
            "template": "What is {a}+{a}?",
            "system_prompt": "Be brief.",
            "chat": True,
        },
        **SMALL,
    }
    merged = {**given, **sections}
    for name, content in sections.items():
        if isinstance(given.get(name), dict):
            merged[name] = {**given[name], **content}
    return merged


def lines(run, name):
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_parquet_a_system_prompt_and_a_reward_function_of_trls_make_a_run(place):
    content = recipe(
        rollout={"stop": ["~"], "chat_template_kwargs": {"enable_thinking": False}},
        reward={"verifier": "rewards.py:accuracy", "completions_as": "messages", "correct_at": 0.2},
    )
    (place / "recipe.yaml").write_text(yaml.safe_dump(content))
    done = CliRunner().invoke(app, ["train", "recipe.yaml", "--output", "run"])
    assert done.exit_code == 0, done.output
    steps = lines(place / "run", "metrics.jsonl")
    assert [one["verdicts_ok"] for one in steps] == [one["rollouts"] for one in steps]
    assert any(one["grad_norm"] for one in steps)
    (example, *_) = lines(place / "run", "examples.jsonl")
    assert example["prompt"].startswith("Be brief.\nWhat is ")
    saved = yaml.safe_load((place / "run" / "recipe.yaml").read_text())
    assert saved["rollout"]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(("chat", "advised"), [(True, True), (False, False)])
def test_a_function_for_trl_that_fails_on_texts_is_told_of_messages(place, chat, advised):
    content = recipe(reward={"verifier": "rewards.py:reads_messages"})
    content["task"] |= {"chat": chat} if chat else {"chat": chat, "system_prompt": ""}
    with pytest.raises(BapoError, match=r"fails on all of 8 .*string indices") as refusal:
        train(resolve_recipe(content), place / "run")
    assert str(refusal.value).endswith("needs 'reward.completions_as' messages.") == advised


def test_a_coroutine_is_refused_before_anything_is_written(place):
    content = recipe(reward={"verifier": "rewards.py:slowly"})
    with pytest.raises(BapoError, match="is a coroutine; it must be a plain function"):
        train(resolve_recipe(content), place / "run")
    assert not (place / "run").exists()


def test_long_thoughts_are_cut_off_scored_and_masked(place):
    """What comes after the last `;` is the answer; most answers of the random model have none."""
    content = recipe(
        reward={"verifier": "thoughts.py:verify", "answer_after": ";", "overlong_tokens": 4},
        objective={"mask_truncated": True},
        rollout={"max_new_tokens": 24},
    )
    train(resolve_recipe(content), place / "run")
    steps = lines(place / "run", "metrics.jsonl")
    assert [one["verdicts_ok"] for one in steps] == [one["rollouts"] for one in steps]
    assert all(0 < one["truncated_share"] < 1 and one["updates"] for one in steps)
    texts = lines(place / "run", "examples.jsonl")
    assert not any(one["correct"] for one in texts if ";" not in one["completion"])


def test_a_batch_of_nothing_but_masked_answers_teaches_nothing(place):
    """Without an end token every answer is cut off; not even weight decay moves the weights."""
    model = tiny_model("qwen2", vocab_size=102, max_position_embeddings=256, eos_token_id=None)
    model.save_pretrained("model")
    tokenizer = character_tokenizer(string.printable)
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, None
    tokenizer.save_pretrained("model")
    content = recipe(
        reward={"verifier": "thoughts.py:verify", "answer_after": ""},
        objective={"mask_truncated": True},
    )
    (place / "thoughts.py").write_text("def verify(completions): return [len(completions[0]) % 2]")
    train(resolve_recipe(content), place / "run")
    for one in lines(place / "run", "metrics.jsonl"):
        assert (one["updates"], one["loss"], one["grad_norm"]) == (0, None, None)
        assert one["updates_skipped"] > 0
    fates = [one for one in lines(place / "run", "ledger.jsonl") if one["kind"] == "group"]
    assert "update_skipped" in {one["outcome"] for one in fates}
    assert "trained" not in {one["outcome"] for one in fates}
    base, trained = (load_file(f"{folder}/model.safetensors") for folder in ("model", "run/model"))
    assert all(torch.equal(trained[name], weights) for name, weights in base.items())


def test_the_function_of_the_page_that_joins_two_rewards_is_a_verifier(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "your-own.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(def verify.*?)```", page, re.DOTALL)
    (tmp_path / "joined.py").write_text(block)
    columns = {"answer": "4"}
    with VerifierPool(f"{tmp_path / 'joined.py'}:verify", RewardSettings(workers=1)) as pool:
        seen = pool.verify([("2+2=4", columns), ("4", columns), ("2+2=5", columns)])
    assert [(one.correct, one.score) for one in seen] == [(True, 1.1), (True, 1.0), (False, 0.1)]


def test_two_processes_are_refused_before_anything_is_written(place, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    content = recipe(reward={"verifier": "thoughts.py:verify"})
    with pytest.raises(BapoError, match="bapo trains in one process"):
        train(resolve_recipe(content), place / "run")
    assert not (place / "run").exists()
