"""LoRA adapters (arXiv 2106.09685), through PEFT: small trained matrices beside frozen weights.

An adapter is injected into the model that it adapts, which stays the transformers model it was: the
same class, the same forward pass, other layers inside. What training changes are then the
parameters that require a gradient; versions of the policy, delayed copies and checkpoints hold
those and no others.

Only LoRA is supported, and no other trained modules beside it. PEFT is imported where an adapter is
asked for, so that nobody else needs it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from bapo.config.settings import AdapterSettings
from bapo.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
# PEFT writes the names of its own wrapper around the model, which is not there here.
_PREFIX = "base_model.model."
_ALL_LINEAR = "all-linear"
# Wrong types and values in a config, and names of layers that the model does not have.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether an adapter was added to a model."""
    return bool(getattr(model, "peft_config", None))


def is_quantised(model: PreTrainedModel) -> bool:
    """Whether a model's weights are held in fewer bits than they are computed with."""
    return getattr(model.config, "quantization_config", None) is not None


def is_adapter_folder(location: str) -> bool:
    """Whether a folder holds an adapter in PEFT's format and no model of its own."""
    folder = Path(location).expanduser()
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(location: str, name: str) -> str:
    """The model that the adapter in a folder was made for: a folder, a Hub name, `embedded:NAME`.

    Args:
        location: A folder that `is_adapter_folder` accepts.
        name: What the user called it, for messages.

    Raises:
        ModelError: The adapter's config does not say, or cannot be read.
    """
    try:
        content = json.loads((Path(location) / CONFIG).read_text(encoding="utf-8"))
        base = content["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"The {CONFIG} of the adapter '{name}' cannot be read.") from None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The adapter '{name}' does not say which model it is for; write it into "
            f"'base_model_name_or_path' of its {CONFIG}."
        )
    return base


def add_adapter(model: PreTrainedModel, base: str, settings: AdapterSettings, seed: int) -> None:
    """Adds a new adapter, which changes nothing yet, and freezes all other weights.

    Args:
        model: The model, in evaluation mode.
        base: Its folder or Hub name, which is saved with the adapter.
        settings: Rank above 0.
        seed: Of the adapter's random half; the other half is zero.

    Raises:
        ModelError: PEFT is not installed, or the model has not the layers that are named.
    """
    peft = _peft(f"'adapter.rank' is {settings.rank}")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules) or _ALL_LINEAR,
        base_model_name_or_path=_lasting_name(base),
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(config, model, _NAME)
    except ValueError:
        layers = ", ".join(settings.target_modules) or "no linear layers"
        raise ModelError(
            f"No adapter can be added to the model '{base}': it has none of the layers that "
            f"'adapter.target_modules' names ({layers})."
        ) from None
    _check_head(model)
    _train_only_adapter(model)


def load_adapter(model: PreTrainedModel, location: str, name: str) -> None:
    """Puts a saved adapter into its model, to be sampled from or trained on.

    Args:
        model: What `base_of` names, in evaluation mode.
        location: The adapter's folder.
        name: What the user called it, for messages.

    Raises:
        ModelError: PEFT is not installed, or the adapter is unreadable, of another kind than LoRA,
            or of another model.
    """
    peft = _peft(f"'{name}' is an adapter")
    path = Path(location) / WEIGHTS
    if not path.is_file():
        raise ModelError(
            f"The adapter '{name}' has no {WEIGHTS}; save it with PEFT in that format (others are "
            "pickles, which can hold code)."
        )
    try:
        config = peft.PeftConfig.from_pretrained(location)
        _check_kind(config, name)
        peft.inject_adapter_in_model(config, model, _NAME)
        _check_head(model)
        state = {key.removeprefix(_PREFIX): tensor for key, tensor in load_file(path).items()}
        result = peft.set_peft_model_state_dict(model, state, adapter_name=_NAME)
    except _UNREADABLE as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"The adapter '{name}' cannot be put into the model that it names "
            f"('{base_of(location, name)}'); it is damaged, or it was made for another model."
        ) from None
    missing = [key for key in result.missing_keys if f".{_NAME}" in key]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"The adapter '{name}' does not fit the model that it names "
            f"('{base_of(location, name)}'): '{[*missing, *result.unexpected_keys][0]}' is "
            f"{'missing' if missing else 'unknown'}."
        )
    _train_only_adapter(model)


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Writes a model's adapter, and not the model, as `PeftModel.from_pretrained` reads it.

    Args:
        model: One that `has_adapter`.
        folder: Made where it is not there.

    Raises:
        OSError: It cannot be written.
    """
    peft = _peft("the model has an adapter")
    folder.mkdir(parents=True, exist_ok=True)
    state = peft.get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    tensors = {_PREFIX + key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    configs: Any = model.peft_config
    configs[_NAME].save_pretrained(str(folder))


def merge_adapter(model: PreTrainedModel) -> None:
    """Adds a model's adapter to the weights that it adapts, in place, and removes it.

    Raises:
        ModelError: The weights are quantised.
    """
    if is_quantised(model):
        raise ModelError(
            "An adapter cannot be merged into quantised weights without loss; set "
            "'model.quantization' to none."
        )
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in [*model.named_modules()]:
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            model.set_submodule(path, module.get_base_layer())
    del model.peft_config
    model.requires_grad_(True)


def _peft(why: str) -> Any:
    try:
        import peft
    except ImportError:
        raise ModelError(
            f"PEFT is not installed, but {why}; install it with: pip install 'bapo[peft]'."
        ) from None
    return peft


def _check_kind(config: Any, name: str) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise ModelError(f"The adapter '{name}' is of the kind {kind}, but only LORA is supported.")
    if config.modules_to_save or getattr(config, "trainable_token_indices", None):
        raise ModelError(
            f"The adapter '{name}' replaces whole modules beside its LoRA layers; merge it with "
            "PEFT, and use the merged model."
        )


def _check_head(model: PreTrainedModel) -> None:
    """A head that shares its weights with the embeddings cannot have an adapter of its own.

    Raises:
        ModelError: It has one.
    """
    head: Any = model.get_output_embeddings()
    inputs: Any = model.get_input_embeddings()
    if hasattr(head, "base_layer") and head.base_layer.weight is inputs.weight:
        raise ModelError(
            "The adapter covers the model's head, which shares its weights with the embeddings; "
            "leave it out of 'adapter.target_modules'."
        )


def _train_only_adapter(model: PreTrainedModel) -> None:
    """Freezes all weights but the adapter's, which are trained in float32 whatever the model's.

    Dropout of a loaded adapter goes, as that of any model does.
    """
    for name, parameter in model.named_parameters():
        is_adapter = f".{_NAME}" in name
        parameter.requires_grad_(is_adapter)
        if is_adapter:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.eval()


def _lasting_name(base: str) -> str:
    """A folder's absolute path, so that the adapter finds it from anywhere; other names as is."""
    folder = Path(base).expanduser()
    return str(folder.absolute()) if folder.is_dir() else base
