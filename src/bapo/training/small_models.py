"""Small models of standard architectures with fresh weights, and the tokenizers that go with them.

One of them reads pictures: Qwen2.5-VL with a vision tower of a few layers, whose every patch is a
token of the decoder.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2VLImageProcessorPil,
    set_seed,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from bapo.config.warmstart import ArchitectureSettings
from bapo.rollout import image_only

PAD, END = "<pad>", "<end>"
_PICTURE_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def symbol_tokenizer(
    alphabet: Sequence[str], longest: int, *, pictures: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token a symbol, besides padding and the end token.

    Args:
        alphabet: The symbols it knows, characters or words; of two that fit, the longer one is
            taken. Other characters have no token and are an error when encoded.
        longest: The model's positions.
        pictures: Whether it also has the tokens that stand for pictures.
    """
    symbols = [*dict.fromkeys(alphabet)]
    vocabulary = {token: index for index, token in enumerate([PAD, END, *symbols])}
    words = sorted((one for one in symbols if len(one) > 1), key=len, reverse=True)
    pattern = "|".join([*map(re.escape, words), r"[\s\S]"])
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
    if pictures:
        tokenizer.add_special_tokens({"additional_special_tokens": [*_PICTURE_TOKENS]})
    return tokenizer


def small_model(
    settings: ArchitectureSettings, tokenizer: PreTrainedTokenizerFast, seed: int
) -> PreTrainedModel:
    """A model with fresh weights, drawn from `seed`."""
    decoder = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        "intermediate_size": settings.feed_forward,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.heads,
        "max_position_embeddings": settings.positions,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    reads_pictures = settings.reads_pictures
    if reads_pictures:
        config = _picture_config(settings, decoder, tokenizer)
    else:
        config = AutoConfig.for_model(settings.kind, **decoder)
    kind: Any = AutoModelForImageTextToText if reads_pictures else AutoModelForCausalLM
    with torch.random.fork_rng():
        set_seed(seed)
        return kind.from_config(config, dtype=torch.float32)


def small_processor(
    settings: ArchitectureSettings, tokenizer: PreTrainedTokenizerFast
) -> ProcessorMixin:
    """What the small model that reads pictures reads them with; all come to one size."""
    area = settings.picture_size**2
    images = Qwen2VLImageProcessorPil(
        patch_size=settings.patch,
        merge_size=1,
        temporal_patch_size=1,
        size={"shortest_edge": area, "longest_edge": area},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return image_only(Qwen2_5_VLProcessor)(images, tokenizer)


def _picture_config(
    settings: ArchitectureSettings, decoder: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> PreTrainedConfig:
    start, end, image, video = (tokenizer.convert_tokens_to_ids(one) for one in _PICTURE_TOKENS)
    half = settings.hidden // settings.heads // 2
    # As in the real one, a quarter of the frequencies for time, and the rest for the two axes.
    axis = (half - half // 4) // 2
    rotation = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": [half - 2 * axis, axis, axis],
    }
    return AutoConfig.for_model(
        settings.kind,
        text_config={**decoder, "rope_parameters": rotation},
        vision_config={
            "depth": settings.vision_layers,
            "hidden_size": settings.vision_hidden,
            "intermediate_size": 2 * settings.vision_hidden,
            "num_heads": settings.vision_heads,
            "out_hidden_size": settings.hidden,
            "patch_size": settings.patch,
            "spatial_merge_size": 1,
            "temporal_patch_size": 1,
            "window_size": settings.picture_size,
            "fullatt_block_indexes": [*range(settings.vision_layers)],
        },
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=True,
    )
