"""The settings of a supervised cold start, and its recipe file."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bapo.config.fields import nearest_name, parse_section, setting
from bapo.config.recipe import (
    LARGEST_SEED,
    as_plain_values,
    find_recipe,
    merge_recipe,
    read_yaml,
    whole_number,
)
from bapo.config.settings import TaskSettings
from bapo.errors import RecipeError, SettingError


@dataclass(frozen=True, slots=True)
class ArchitectureSettings:
    """A small decoder of a standard transformers architecture, perhaps with a vision tower."""

    kind: str = setting(
        "llama",
        "architecture; idefics3, with a llama as its decoder, reads pictures",
        choices=["llama", "qwen2", "idefics3"],
    )
    layers: int = setting(4, "decoder layers", low=1, high=64)
    hidden: int = setting(128, "width of the residual stream", low=8)
    heads: int = setting(4, "attention heads", low=1)
    feed_forward: int = setting(384, "width of the feed-forward layers", low=8)
    positions: int = setting(128, "longest sequence, prompt and completion together", low=8)
    vision_layers: int = setting(2, "layers of the vision tower", low=1, high=64)
    vision_hidden: int = setting(64, "width of the vision tower", low=8)
    vision_heads: int = setting(4, "attention heads of the vision tower", low=1)
    patch: int = setting(7, "pixels a side of a patch; four make a token of the decoder", low=2)
    picture_size: int = setting(56, "pixels a side to which pictures are brought", low=2)

    @property
    def reads_pictures(self) -> bool:
        """Whether the model has a vision tower."""
        return self.kind == "idefics3"


@dataclass(frozen=True, slots=True)
class ColdStartSettings:
    """How the worked examples are learned."""

    batch: int = setting(128, "examples per step", low=1)
    learning_rate: float = setting(1e-3, "AdamW's learning rate after the warm-up", above=0)
    warmup_steps: int = setting(100, "steps over which the learning rate rises from 0", low=0)
    weight_decay: float = setting(0.01, "AdamW's weight decay", low=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0)


@dataclass(frozen=True, slots=True)
class WarmstartRecipe:
    """A resolved warm-start recipe.

    Attributes:
        task: Where the worked examples come from.
        seed: Seeds the initial weights.
        steps: Optimizer steps, each on examples never seen before.
        model: The architecture.
        training: The optimizer.
    """

    task: TaskSettings
    seed: int = 0
    steps: int = 1000
    model: ArchitectureSettings = field(default_factory=ArchitectureSettings)
    training: ColdStartSettings = field(default_factory=ColdStartSettings)

    def as_mapping(self) -> dict[str, Any]:
        """The recipe as plain values, every default written out."""
        return as_plain_values(dataclasses.asdict(self))


def load_warmstart_recipe(path: str | Path, overrides: Sequence[str] = ()) -> WarmstartRecipe:
    """Reads and resolves a warm-start recipe file.

    Args:
        path: A YAML file, or the name of one that comes with bapo.
        overrides: `key=value` or `section.key=value`, values in YAML.

    Raises:
        RecipeError: The file is missing, is not a YAML mapping, or is for training.
        SettingError: A setting is unknown, of the wrong type or out of range.
    """
    content = read_yaml(find_recipe(path))
    named = content.get("model")
    if isinstance(named, str) or (isinstance(named, Mapping) and "path" in named):
        raise RecipeError(
            f"The recipe '{path}' is for training and not for a cold start; use "
            f"'bapo train {path} --output RUN' instead."
        )
    merged = merge_recipe(content, overrides)
    known = ["task", "seed", "steps", "model", "training"]
    for name in merged:
        if name not in known:
            raise SettingError(f"Unknown setting '{name}': {nearest_name(name, known)}")
    model = parse_section(ArchitectureSettings, merged.get("model", {}), "model")
    if model.hidden % (2 * model.heads):
        raise SettingError(
            f"'model.hidden' is {model.hidden}, but must be an even multiple of "
            f"'model.heads' ({model.heads})."
        )
    if model.vision_hidden % model.vision_heads or model.picture_size % (2 * model.patch):
        raise SettingError(
            f"'model.vision_hidden' ({model.vision_hidden}) must be a multiple of "
            f"'model.vision_heads' ({model.vision_heads}), and 'model.picture_size' "
            f"({model.picture_size}) an even multiple of 'model.patch' ({model.patch})."
        )
    return WarmstartRecipe(
        task=parse_section(TaskSettings, merged.get("task", {}), "task"),
        seed=whole_number(merged.get("seed", 0), "seed", 0, LARGEST_SEED),
        steps=whole_number(merged.get("steps", 1000), "steps", 1),
        model=model,
        training=parse_section(ColdStartSettings, merged.get("training", {}), "training"),
    )
