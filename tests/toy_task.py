"""A task that a tiny random model learns in seconds: begin the answer with the letter asked for."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from bapo.config import Recipe, resolve_recipe
from tests.rollout_models import character_tokenizer, tiny_model

LETTERS = "abcdef"
FILLERS = "0123456789"

VERIFIER = """
def verify(completions, letter, **columns):
    return [text[:1] == wanted for text, wanted in zip(completions, letter)]
"""


def write_toy(folder: Path) -> Path:
    """Writes a random model of one layer, 600 prompts such as `b73=`, and their verifier.

    A tenth of the prompts is held out: their letters are known, their digits are not.
    """
    tokenizer = character_tokenizer(LETTERS + FILLERS + "=")
    model = tiny_model(
        "llama",
        vocab_size=len(tokenizer),
        num_hidden_layers=1,
        num_key_value_heads=4,
        initializer_range=0.08,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{letter}{first}{second}=", "letter": letter}
        for letter, first, second in product(LETTERS, FILLERS, FILLERS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "verifier.py").write_text(VERIFIER)
    return folder


def toy_recipe(folder: Path, *, steps: int, **sections: Any) -> Recipe:
    """A recipe of the toy task in a folder that `write_toy` has filled."""
    given = {
        "adaptation": {"behavior_sync_every": 2, "retry_every": 2},
        "rollout": {"group_size": 8, "max_new_tokens": 2},
        "reward": {"verifier": f"{folder / 'verifier.py'}:verify", "workers": 1},
        "training": {"batch_groups": 16, "learning_rate": 5e-3, "checkpoint_every": 0},
        "evaluation": {"every": 0, "samples": 8, "training_prompts": 0},
    }
    merged = {name: given.get(name, {}) | sections.pop(name, {}) for name in given}
    return resolve_recipe(
        {
            "model": {"path": str(folder / "model"), "device": "cpu"},
            "task": {"name": "dataset", "path": str(folder / "rows.jsonl")},
            "steps": steps,
            **merged,
            **sections,
        }
    )
