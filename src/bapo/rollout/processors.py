"""Loads what an image-text model reads pictures with: its processor, for pictures and no videos.

transformers' processors of models that also read videos ask for a video processor, which needs
torchvision even where no video is ever seen. Here the processor is put together from its image
processor and the tokenizer, by a class of the same name and behaviour that has no third part.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

_PARTS = ("image_processor", "tokenizer")
_NOT_NEEDED = "video_processor"
# Its probability is 0 in every number type, and 0 times it is 0, so that entropies stay finite.
_FORBIDDEN = -1e4


def is_image_text(config: PreTrainedConfig) -> bool:
    """Whether a config is that of a model that reads pictures and text, and writes text."""
    known = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    remote = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    return known or remote


def picture_token_ids(processor: ProcessorMixin) -> tuple[int, ...]:
    """The tokens that stand for parts of a picture or a video, ascending."""
    found = [*processor.image_token_ids, *processor.video_token_ids]
    return tuple(sorted({int(one) for one in found if one is not None}))


def forbid_picture_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Makes a model never write a token that stands for a part of a picture.

    One that it wrote would have no picture behind it, and no forward pass over the row could be
    made. The tokens leave the distribution in the model itself, so that sampler and learner agree.
    """
    ids = torch.tensor(picture_token_ids(processor))

    def forbid(module: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
        there = ids[ids < logits.shape[-1]].to(logits.device)
        return logits.index_fill(-1, there, _FORBIDDEN)

    head: Any = model.get_output_embeddings()
    head.register_forward_hook(forbid)


def read_processor(
    location: str,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trust_remote_code: bool,
) -> ProcessorMixin:
    """The processor of an image-text model, around a tokenizer that is there already.

    Args:
        location: A folder or a Hub name.
        config: The model's.
        tokenizer: Becomes part of the processor.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ImportError: Pillow is not installed.
        OSError: The processor's files are missing.
        ValueError: They are malformed, or the processor needs more than an image processor.
    """
    if type(config) not in PROCESSOR_MAPPING:
        return AutoProcessor.from_pretrained(location, trust_remote_code=trust_remote_code)
    plain: Any = PROCESSOR_MAPPING[type(config)]
    kind: Any = image_only(plain)
    parts = {
        "image_processor": AutoImageProcessor.from_pretrained(
            location, trust_remote_code=trust_remote_code
        ),
        "tokenizer": tokenizer,
    }
    content, _ = kind.get_processor_dict(location)
    return kind.from_args_and_dict([parts[name] for name in kind.get_attributes()], content)


def image_only(kind: Any) -> Any:
    """A processor class without its part for videos; itself where it has none.

    Raises:
        ValueError: It needs another part, such as one for sounds.
    """
    parts = kind.get_attributes()
    left = [name for name in parts if name != _NOT_NEEDED]
    if sorted(left) != sorted(_PARTS):
        raise ValueError(
            f"its processor {kind.__name__} is made of {', '.join(parts)}, and only processors of "
            "pictures and text are supported"
        )
    if left == parts:
        return kind
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: left)})
