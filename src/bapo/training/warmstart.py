"""A small base model made on the spot: a decoder of few symbols, cold-started on worked examples.

The result is an ordinary transformers folder (save_pretrained), so that everything downstream loads
it like any other model. The cold start is deliberately short: the base should know the format and
fail most hard problems, which is where reinforcement learning starts.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from bapo.config.warmstart import WarmstartRecipe
from bapo.errors import SettingError
from bapo.rollout import PictureReader, without_bars
from bapo.tasks import open_image
from bapo.tasks.base import WorkedTask
from bapo.training.small_models import small_model, small_processor, symbol_tokenizer
from bapo.types import Prompt

_IGNORED = -100
_PICTURE_BYTES = 1 << 26


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
        output: Folder for the model, its tokenizer or processor, and `warmstart.json`, which
            records the recipe and the hash of the weights.
        device: A torch device.
        report: Called after every step with the step and its loss (nats per token).

    Returns:
        The output folder.

    Raises:
        SettingError: The task shows pictures and the model reads text alone, or the reverse, or
            an example is longer than the model's positions.
    """
    settings, pictures = recipe.training, recipe.model.reads_pictures
    if pictures != hasattr(task, "worked_images"):
        raise SettingError(
            f"'model.kind' is {recipe.model.kind}, which reads {'pictures' if pictures else 'text'}"
            f", but the task '{task.name}' shows {'none' if pictures else 'pictures'}; set it to "
            f"{'llama' if pictures else 'idefics3'}."
        )
    tokenizer = symbol_tokenizer(task.alphabet, recipe.model.positions, pictures=pictures)
    model = small_model(recipe.model, tokenizer, recipe.seed)
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    processor = small_processor(recipe.model, tokenizer) if pictures else None
    reader = processor and PictureReader(processor, model, open_image, cache_bytes=_PICTURE_BYTES)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    model.train()
    for step in range(1, recipe.steps + 1):
        first = (step - 1) * settings.batch
        examples = [_example(task, first + i) for i in range(settings.batch)]
        tokens, labels, shown = _pad(examples, tokenizer, reader)
        if tokens.shape[1] > recipe.model.positions:
            raise SettingError(
                f"'model.positions' is {recipe.model.positions}, but an example of the task "
                f"'{task.name}' takes {tokens.shape[1]}; raise it."
            )
        labels = labels.to(model.device)
        logits = model(input_ids=tokens.to(model.device), use_cache=False, **shown).logits[:, :-1]
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
    return _save(model, processor or tokenizer, recipe, output)


def _example(task: Any, index: int) -> tuple[Prompt, str]:
    """Worked example `index` of a task, with pictures or without."""
    text, completion = task.worked_example(index)
    images = task.worked_images(index) if hasattr(task, "worked_images") else ()
    return Prompt(str(index), text, {}, images=images), completion


def _pad(
    examples: list[tuple[Prompt, str]],
    tokenizer: PreTrainedTokenizerFast,
    reader: PictureReader | None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Tokens and labels `(N, T)`, padded on the right, and what the model reads besides.

    Only completions are learned.
    """
    if reader is None:
        prompts: Any = tokenizer([str(prompt.content) for prompt, _ in examples])["input_ids"]
    else:
        prompts = [reader.token_ids(prompt, (), {}) for prompt, _ in examples]
    completions: Any = tokenizer([completion for _, completion in examples])["input_ids"]
    rows = [
        (prompt, [*completion, tokenizer.eos_token_id])
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), _IGNORED)
    for row, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor(prompt + completion)
        labels[row, len(prompt) : end] = torch.tensor(completion)
    if reader is None:
        return tokens, labels, {}
    pairs = [
        (prompt.images, np.array([*ids, *completion], np.int32))
        for (prompt, _), (ids, completion) in zip(examples, rows, strict=True)
    ]
    return tokens, labels, dict(reader.inputs(pairs, longest).arguments)


@without_bars()
def _save(
    model: PreTrainedModel,
    speech: PreTrainedTokenizerFast | ProcessorMixin,
    recipe: WarmstartRecipe,
    output: Path,
) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    model.cpu().eval().save_pretrained(output)
    speech.save_pretrained(output)
    weights = (output / "model.safetensors").read_bytes()
    record = {
        "recipe": recipe.as_mapping(),
        "parameters": model.num_parameters(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (output / "warmstart.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return output
