"""`bapo merge`: an adapter and its model as one model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bapo.cli.options import (
    Output,
    console,
    harmless,
    is_run,
    model_of_run,
    quiet_libraries,
    refuse_taken,
)
from bapo.config import parse_section
from bapo.config.settings import ModelSettings
from bapo.errors import ModelError


def merge(
    adapter: Annotated[str, typer.Argument(help="A run that trained an adapter, or its folder.")],
    output: Output = ...,  # pyright: ignore[reportArgumentType]
    dtype: Annotated[
        str, typer.Option(help="Number type of the weights written; they are added in float32.")
    ] = "float32",
) -> None:
    """Add an adapter to the weights of its model, for whatever cannot load the two apart.

    Example: bapo merge runs/countdown-1.5b --output models/merged --dtype bfloat16
    """
    parse_section(ModelSettings, {"dtype": dtype}, "model")
    refuse_taken(output)
    folder = Path(adapter)
    path = str(model_of_run(folder)) if is_run(folder) else adapter
    import torch

    from bapo.rollout import has_adapter, load_policy, merge_adapter

    quiet_libraries()
    policy = load_policy(ModelSettings(path=path, device="cpu"))
    if not has_adapter(policy.model):
        raise ModelError(f"'{adapter}' has no adapter to merge; its weights are whole already.")
    model: Any = policy.model
    merge_adapter(model)
    model.to(getattr(torch, dtype)).save_pretrained(output)
    policy.tokenizer.save_pretrained(output)
    console.print(f"Wrote the model [bold]{harmless(output)}[/].")
