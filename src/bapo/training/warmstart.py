"""A small base model made on the spot: a decoder of few symbols, cold-started on worked examples.

The result is an ordinary transformers folder (save_pretrained), so that everything downstream loads
it like any other model. The cold start is deliberately short: the base should know the format and
fail most hard problems, which is where reinforcement learning starts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from bapo.config.warmstart import ArchitectureSettings, WarmstartRecipe
from bapo.tasks.base import WorkedTask

PAD, END = "<pad>", "<end>"
_IGNORED = -100


def symbol_tokenizer(alphabet: Sequence[str], longest: int) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a symbol, besides padding and the end token.

    Args:
        alphabet: The symbols it knows, characters or words; of two that fit, the longer one is
            taken. Other characters have no token and are an error when encoded.
        longest: The model's positions.
    """
    symbols = [*dict.fromkeys(alphabet)]
    vocabulary = {token: index for index, token in enumerate([PAD, END, *symbols])}
    words = sorted((one for one in symbols if len(one) > 1), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, words), r"[\s\S]"])
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )


def small_decoder(
    settings: ArchitectureSettings, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A decoder with fresh weights, drawn from `seed`."""
    config = AutoConfig.for_model(
        settings.kind,
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        set_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def warmstart(
    recipe: WarmstartRecipe,
    task: WorkedTask,
    output: Path,
    *,
    device: str = "cpu",
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Path:
    """Trains a small base model on worked examples and saves it.

    Args:
        recipe: Architecture, optimizer and number of steps.
        task: Where the examples come from; each is used once.
        output: Folder for the model, the tokenizer and `warmstart.json`, which records the recipe
            and the hash of the weights.
        device: A torch device.
        report: Called after every step with the step and its loss (nats per token).

    Returns:
        The output folder.
    """
    tokenizer = symbol_tokenizer(task.alphabet, recipe.model.positions)
    model = small_decoder(recipe.model, tokenizer, recipe.seed)
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    settings = recipe.training
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    model.train()
    for step in range(1, recipe.steps + 1):
        first = (step - 1) * settings.batch
        examples = [task.worked_example(first + i) for i in range(settings.batch)]
        tokens, labels = (part.to(model.device) for part in _pad(examples, tokenizer))
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = cross_entropy(
            logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=_IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for part in optimizer.param_groups:
            part["lr"] = settings.learning_rate * min(1.0, step / max(1, settings.warmup_steps))
        optimizer.step()
        optimizer.zero_grad()
        report(step, loss.item())
    return _save(model, tokenizer, recipe, output)


def _pad(
    examples: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels `(N, T)`, padded on the right; only completions are learned."""
    rows = [
        (tokenizer.encode(prompt), [*tokenizer.encode(completion), tokenizer.eos_token_id])
        for prompt, completion in examples
    ]
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), _IGNORED)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    return tokens, labels


def _save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: WarmstartRecipe,
    output: Path,
) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    model.cpu().eval().save_pretrained(output)
    tokenizer.save_pretrained(output)
    weights = (output / "model.safetensors").read_bytes()
    record = {
        "recipe": recipe.as_mapping(),
        "parameters": model.num_parameters(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (output / "warmstart.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return output
