"""Small models of standard architectures with fresh weights, and the tokenizers that go with them.

One of them reads pictures: Idefics3, whose vision tower has an embedding for every place in the
picture, and makes one token for the decoder of every four patches.
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
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    set_seed,
)

from bapo.config.warmstart import ArchitectureSettings

PAD, END = "<pad>", "<end>"
_PICTURE_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
# Paper is nearly nothing to the model, and ink is much; at 1 a white picture would be all zeros,
# which Idefics3 takes for none.
_GROUND = 0.98
_SHUFFLE = 2
"""Patches a side that make one token."""
# About one over the root of the width. With the usual 0.02, made for widths in the thousands, what
# the tower sees hardly reaches the decoder, and reading takes several times as many steps.
_PICTURE_INITIAL_STD = 0.1


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
    edge = {"longest_edge": settings.picture_size}
    images = Idefics3ImageProcessorPil(
        size=edge,
        max_image_size=edge,
        do_image_splitting=False,
        image_mean=[_GROUND] * 3,
        image_std=[0.5] * 3,
    )
    tokens = (settings.picture_size // settings.patch // _SHUFFLE) ** 2
    return Idefics3Processor(images, tokenizer, image_seq_len=tokens)


def _picture_config(
    settings: ArchitectureSettings, decoder: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> PreTrainedConfig:
    spread = {"initializer_range": _PICTURE_INITIAL_STD}
    return AutoConfig.for_model(
        settings.kind,
        **spread,
        text_config={**decoder, **spread, "model_type": "llama"},
        vision_config={
            **spread,
            "hidden_size": settings.vision_hidden,
            "intermediate_size": 2 * settings.vision_hidden,
            "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.vision_heads,
            "patch_size": settings.patch,
            "image_size": settings.picture_size,
        },
        scale_factor=_SHUFFLE,
        image_token_id=tokenizer.convert_tokens_to_ids(_PICTURE_TOKENS[0]),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
