"""Tiny models and tokenizers that tests and benchmarks make themselves."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bapo.config.settings import ModelSettings, RolloutSettings
from bapo.rollout.embedded import EmbeddedEngine
from bapo.rollout.loading import Policy, load_policy
from bapo.selftest.ingredients import END, character_tokenizer

# Biased, normed, tied, capped, fused, partly rotated and windowed attention; learned positions.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6},
    "gemma3_text": {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6},
    "phi3": {"num_key_value_heads": 2, "sliding_window": None},
    "phi": {"partial_rotary_factor": 0.5},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 6},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


def tiny_model(architecture: str = "llama", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of two layers, with weights large enough to make its choices matter."""
    common = {
        "vocab_size": len(character_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "eos_token_id": END,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.3,
    }
    if architecture == "gpt2":
        common = {name: common[name] for name in ("vocab_size", "eos_token_id", "bos_token_id")}
        common["initializer_range"] = 0.3
    config = AutoConfig.for_model(
        architecture, **(common | ARCHITECTURES.get(architecture, {}) | changes)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()


def save_policy(folder: Path, model: PreTrainedModel) -> Path:
    """Saves a model with the character tokenizer, in save_pretrained format."""
    model.save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def tiny_policy(architecture: str = "llama", **changes: Any) -> Policy:
    """A random policy with the character tokenizer, without a detour through files."""
    return Policy(tiny_model(architecture, **changes), character_tokenizer(), architecture)


def loaded_policy(folder: Path, architecture: str) -> Policy:
    """A random policy, saved and loaded by the ordinary path."""
    save_policy(folder, tiny_model(architecture))
    return load_policy(ModelSettings(path=str(folder), device="cpu"))


def tiny_engine(
    policy: Policy | None = None,
    *,
    max_new_tokens: int = 12,
    stop: tuple[str, ...] = (),
    token_budget: int = 4096,
    compact_below: float = 0.95,
    decoder: str = "auto",
    refill: bool = True,
) -> EmbeddedEngine:
    """An engine that holds a tiny policy's weights as version 0."""
    policy = policy or tiny_policy()
    settings = RolloutSettings(
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=64,
        stop=stop,
        token_budget=token_budget,
        decoder=decoder,
        refill=refill,
    )
    engine = EmbeddedEngine.of_policy(policy, settings, compact_below=compact_below)
    engine.publish(0, dict(policy.model.named_parameters()))
    return engine
