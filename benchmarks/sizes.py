"""Models of the sizes that the benchmarks compare at, all of the embedded model's architecture."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bapo.config import ModelSettings
from bapo.rollout import load_policy

EMBEDDED = "embedded:countdown"
# Layers, hidden size, heads; the inner size is three times the hidden size, as in the embedded one.
SHAPES = {"0.1M": (2, 64, 2), "0.8M": (4, 128, 4), "5M": (6, 256, 8), "30M": (10, 512, 8)}


def model_of(size: str, folder: Path) -> str:
    """What `model` in a recipe says for a size.

    0.8M is the embedded model itself. The others are random, with its tokenizer; their completions
    end by chance, at lengths from one token to the limit.

    Args:
        size: A key of `SHAPES`.
        folder: Where models are saved; one that is there is not made again.
    """
    if size == "0.8M":
        return EMBEDDED
    target = folder / size
    if not (target / "config.json").is_file():
        layers, hidden, heads = SHAPES[size]
        policy = load_policy(ModelSettings(path=EMBEDDED))
        changes = {
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": hidden // heads,
        }
        values = {**policy.model.config.to_dict(), **changes}
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
        model.generation_config = policy.model.generation_config
        policy.tokenizer.save_pretrained(target)
        model.save_pretrained(target)
    return str(target)


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range, as a table's cell."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    median = (ordered[middle] + ordered[-1 - middle]) / 2
    return f"{median:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def last_json(text: str) -> dict[str, list[float]]:
    """The object in the last line that a process wrote."""
    return json.loads(text.splitlines()[-1])
