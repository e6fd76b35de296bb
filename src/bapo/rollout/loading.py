"""Loads a policy: a transformers causal language model and its tokenizer.

Dropout is set to zero for good, not only in evaluation mode: the learner's log-probabilities are
compared with the sampler's, token by token, and dropout noise in either would look like
off-policyness.
"""

import difflib
import json
import os
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from bapo.config.settings import ModelSettings
from bapo.errors import ModelError
from bapo.rollout.adapters import base_of, is_adapter_folder, is_quantised, load_adapter
from bapo.rollout.bars import without_bars
from bapo.rollout.processors import forbid_picture_tokens, is_image_text, read_processor

_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "*.model", "*.tiktoken")
EMBEDDED_PREFIX = "embedded:"
# What transformers raises for files that are missing, incomplete or malformed, or without a Hub.
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Policy:
    """A model and how to speak to it.

    Attributes:
        model: In evaluation mode, on its device, without dropout.
        tokenizer: Has a pad token.
        name: What the user called it: a folder, a Hub name, or `embedded:NAME`.
        base: The name of the model under an adapter; `name` where there is none.
        processor: Reads pictures for an image-text model; None for a model of text alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    base: str = ""
    processor: ProcessorMixin | None = None

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a completion, ascending."""
        return end_token_ids(self.model, self.tokenizer)

    @property
    def max_positions(self) -> int | None:
        """Positions for prompt and completion together; None where the model sets no limit.

        Of a model with LongRoPE (arXiv 2402.13753), such as Phi-3, those up to which it turns keys
        by the short factors. Beyond them transformers turns all of a batch by the long ones as soon
        as one row is that long, so a completion's log-probabilities would depend on its company.
        """
        text_config: Any = self.model.config.get_text_config()
        limit = getattr(text_config, "max_position_embeddings", None)
        rotation: Any = getattr(text_config, "rope_parameters", None) or {}
        if limit is None or rotation.get("rope_type") != "longrope":
            return limit
        return min(limit, rotation["original_max_position_embeddings"])


@without_bars()
def load_policy(settings: ModelSettings) -> Policy:
    """Loads the model and the tokenizer that the settings name.

    Args:
        settings: `path` is a folder in save_pretrained format, a Hub name, `embedded:NAME`, or a
            folder with an adapter, which brings the model that it was made for; `threads` above 0
            sets torch's threads, for the whole process.

    Returns:
        The policy in evaluation mode, without dropout, on the device and in the type asked for.

    Raises:
        ModelError: The model or its tokenizer is missing or unreadable, lacks weights, or asks for
            a device that is not there.
    """
    location = resolve_location(settings.path)
    device = _device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    adapter = location if is_adapter_folder(location) else ""
    base = base_of(adapter, settings.path) if adapter else settings.path
    if adapter:
        location = resolve_location(base)
    named = replace(settings, path=base)
    config = _read_config(named, location)
    _disable_dropout(config)
    model = _read_model(named, location, config, device)
    with_tokenizer = adapter if adapter and _has_tokenizer(Path(adapter)) else location
    tokenizer = _read_tokenizer(settings, with_tokenizer)
    _check_vocabulary(settings.path, model, tokenizer)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if adapter:
        load_adapter(model, adapter, settings.path)
    processor = _read_processor(named, location, config, tokenizer)
    if processor is not None:
        forbid_picture_tokens(model, processor)
    placed = model if is_quantised(model) else model.to(device)
    return Policy(placed.eval(), tokenizer, settings.path, base, processor)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion, by tokenizer or generation config, ascending."""
    ids: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for value in (tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
        if isinstance(value, int):
            ids.add(value)
        elif value is not None:
            ids.update(int(item) for item in value)
    return tuple(sorted(ids))


def embedded_models() -> tuple[str, ...]:
    """The names, in order, that `embedded:NAME` accepts."""
    assets = resources.files("bapo").joinpath("assets")
    if not assets.is_dir():
        return ()
    return tuple(
        sorted(item.name for item in assets.iterdir() if item.joinpath("config.json").is_file())
    )


def resolve_location(path: str) -> str:
    """Where a model's files are: an embedded model's folder, or the folder or Hub name as given.

    Raises:
        ModelError: No embedded model or no folder of that name.
    """
    if path.startswith(EMBEDDED_PREFIX):
        name = path.removeprefix(EMBEDDED_PREFIX)
        if name not in embedded_models():
            known = ", ".join(EMBEDDED_PREFIX + item for item in embedded_models()) or "none"
            raise ModelError(f"There is no model '{path}'; the embedded models are: {known}.")
        return str(resources.files("bapo").joinpath("assets", name))
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        return str(folder)
    looks_like_folder = path.startswith((".", "/", "~")) or path.count("/") > 1 or "\\" in path
    if looks_like_folder or not path:
        raise ModelError(
            f"The model folder '{path}' does not exist; name a folder made by save_pretrained, "
            "a Hub name such as Qwen/Qwen2.5-0.5B, or embedded:NAME."
        )
    if "/" not in path:
        _refuse_misspelt(path)
    return path


def _refuse_misspelt(name: str) -> None:
    """A model folder that is there but for a slip is not to be looked for on the Hub."""
    try:
        # Unlike Path.is_file, this takes a folder that may not be looked into for one without.
        beside = [one for one in os.listdir() if os.path.isfile(os.path.join(one, "config.json"))]
    except OSError:
        return
    if near := difflib.get_close_matches(name, beside, n=1, cutoff=0.8):
        raise ModelError(
            f"There is no model folder '{name}': did you mean '{near[0]}'? A model of the Hub goes "
            "by its owner and name, such as openai-community/gpt2."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("'model.device' is cuda, but torch sees no CUDA device; set it to auto.")
    return torch.device(name)


def _read_config(settings: ModelSettings, location: str) -> PreTrainedConfig:
    if Path(location).is_dir() and not Path(location, "config.json").is_file():
        raise ModelError(
            f"The model folder '{settings.path}' has no config.json; name one made by "
            "save_pretrained."
        )
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=settings.trust_remote_code)
    except _UNREADABLE as error:
        raise ModelError(
            f"The model '{settings.path}' could not be read, neither as a folder nor from the Hub: "
            f"{_reason(error)}"
        ) from None


def _read_model(
    settings: ModelSettings, location: str, config: PreTrainedConfig, device: torch.device
) -> Any:
    """The model with all its weights; a checkpoint that lacks some is refused, not filled in."""
    quantisation = _quantisation(settings, device)
    try:
        loaded: Any = _model_class(config).from_pretrained(
            location,
            config=config,
            dtype=getattr(torch, settings.dtype),
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,  # the other formats are pickles, which can hold code
            output_loading_info=True,
            **quantisation,
        )
    except _UNREADABLE as error:
        raise ModelError(
            f"The weights of the model '{settings.path}' could not be loaded: {_reason(error)}"
        ) from None
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights of the model '{settings.path}' lack {len(missing)} tensors, the first of "
            f"them '{missing[0]}'; use a complete checkpoint of a causal language model."
        )
    return model


def _quantisation(settings: ModelSettings, device: torch.device) -> dict[str, Any]:
    """What from_pretrained is told of quantisation; nothing where there is none.

    4 bits are NF4, as in QLoRA (arXiv 2305.14314); products are computed in `model.dtype`.

    Raises:
        ModelError: bitsandbytes is not there, or cannot do it on this device.
    """
    if settings.quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            f"'model.quantization' is {settings.quantization}, but bitsandbytes is not installed; "
            "install it with: pip install bitsandbytes."
        )
    if settings.quantization == "4bit" and device.type == "cpu":
        raise ModelError(
            "'model.quantization' is 4bit, but on a CPU bitsandbytes packs such weights in a way "
            "that gives wrong gradients; set it to 8bit, or use a CUDA device."
        )
    if settings.quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        )
    # Quantised weights cannot be moved afterwards.
    return {"quantization_config": config, "device_map": {"": device}}


def _read_tokenizer(settings: ModelSettings, location: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: Any = _tokenizer_class(location).from_pretrained(
            location, trust_remote_code=settings.trust_remote_code
        )
    except _UNREADABLE as error:
        raise ModelError(
            f"The tokenizer of the model '{settings.path}' is missing or unreadable, so save it "
            f"beside the model with tokenizer.save_pretrained: {_reason(error)}"
        ) from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(
                f"The tokenizer of the model '{settings.path}' has neither a pad token nor an end "
                "token; set one of them and save it again."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model_class(config: PreTrainedConfig) -> Any:
    return AutoModelForImageTextToText if is_image_text(config) else AutoModelForCausalLM


def _read_processor(
    settings: ModelSettings,
    location: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> ProcessorMixin | None:
    """The processor of an image-text model; None for a model of text alone."""
    if not is_image_text(config):
        return None
    try:
        return read_processor(
            location, config, tokenizer, trust_remote_code=settings.trust_remote_code
        )
    except _UNREADABLE as error:
        raise ModelError(
            f"The processor of the image-text model '{settings.path}' is missing or unreadable, so "
            f"save it beside the model with processor.save_pretrained: {_reason(error)}"
        ) from None


def _tokenizer_class(location: str) -> Any:
    """What reads a tokenizer: the plain class where a folder names it, else AutoTokenizer.

    For some architectures, Qwen2 among them, transformers replaces the class that a folder names by
    the architecture's own, which reads another tokenizer's files wrongly without a word.

    Raises:
        OSError: A folder has no tokenizer; transformers would make up an empty one.
    """
    folder = Path(location)
    if not folder.is_dir():
        return AutoTokenizer
    if not _has_tokenizer(folder):
        raise OSError("the folder has no tokenizer files")
    declared = folder / "tokenizer_config.json"
    if declared.is_file() and (folder / "tokenizer.json").is_file():
        content = json.loads(declared.read_text(encoding="utf-8"))
        if content.get("tokenizer_class") == "TokenizersBackend":
            return PreTrainedTokenizerFast
    return AutoTokenizer


def _has_tokenizer(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)


def _check_vocabulary(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ModelError(
            f"The tokenizer of the model '{name}' has token id {largest}, but the model has only "
            f"{rows} embeddings; save the tokenizer that belongs to it."
        )


def _disable_dropout(config: PreTrainedConfig) -> None:
    """Sets every dropout probability of the config, and of the configs inside it, to zero."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _disable_dropout(value)
        elif "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def _reason(error: BaseException) -> str:
    """Why another library could not read a model, and the cure where it is a matter of trust."""
    if "trust_remote_code" in str(error):
        return (
            "it comes with Python code of its own, which is not run unless "
            "'model.trust_remote_code' is true; set that if you trust it."
        )
    return _first_sentence(error)


def _first_sentence(error: BaseException) -> str:
    """The start of another library's message, so that a user's mistake stays one sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].strip().rstrip(".:") + "."
