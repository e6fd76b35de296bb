"""What tiny runs are made of: a random model, data and a verifier, made on the spot."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "0123456789+-*/=>,;() \nabcdefgh"
END = 1

STEPS = 8
PROMPTS = 10
"""With 4 prompts a step, epochs meet within steps 3 and 8, and exactly between steps 5 and 6."""

VERIFIER = '''
"""Right is a completion that has the row's sign in it."""


def verify(completions, sign, **columns):
    return [float(one in text) for one, text in zip(sign, completions)]
'''


def character_tokenizer(characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token per character, from id 2; id 0 pads and id 1 ends."""
    vocabulary = {"<pad>": 0, "<eos>": END}
    vocabulary |= {character: number + 2 for number, character in enumerate(characters)}
    backend: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def tiny_model() -> LlamaForCausalLM:
    """A random model of one layer, with weights large enough to make its choices matter."""
    config = LlamaConfig(
        vocab_size=len(character_tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,  # pyright: ignore[reportArgumentType]
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def make_ingredients(folder: Path) -> Path:
    """Makes what a run needs; every source of a batch comes up in it within a few steps.

    Args:
        folder: Where; it is there.

    Returns:
        The path of a recipe that names the rest.
    """
    tiny_model().save_pretrained(folder / "base")
    character_tokenizer().save_pretrained(folder / "base")
    (folder / "verifier.py").write_text(VERIFIER, encoding="utf-8")
    rows = [
        {"id": f"row-{number}", "prompt": f"{number}+{number}=", "sign": CHARACTERS[number]}
        for number in range(PROMPTS + 3)
    ]
    for name, part in (("train", rows[:PROMPTS]), ("held-out", rows[PROMPTS:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_content(folder), sort_keys=False), encoding="utf-8")
    return recipe


def recipe_content(folder: Path) -> dict[str, Any]:
    """The recipe of `make_ingredients`, as plain values."""
    return {
        "algorithm": "bapo",
        "model": {"path": str(folder / "base"), "device": "cpu"},
        "task": {
            "name": "dataset",
            "path": str(folder / "train.jsonl"),
            "evaluation_path": str(folder / "held-out.jsonl"),
            "id_column": "id",
        },
        "steps": STEPS,
        "adaptation": {"behavior_sync_every": 2, "retry_every": 2},
        "rollout": {"group_size": 4, "max_new_tokens": 8},
        "reward": {"verifier": f"{folder / 'verifier.py'}:verify", "workers": 1},
        "training": {
            "batch_groups": 4,
            "learning_rate": 0.01,
            "checkpoint_every": 3,
            "keep_checkpoints": 2,
        },
        "evaluation": {
            "every": 2,
            "prompts": 3,
            "samples": 2,
            "training_prompts": 4,
            "training_samples": 2,
            "examples": 2,
        },
    }
