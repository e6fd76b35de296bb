"""Tiny random image-text models with their processors, made by the tests themselves."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedModel,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

from bapo.config.settings import ModelSettings, RolloutSettings
from bapo.rollout import EmbeddedEngine, Policy, load_policy
from bapo.rollout.processors import image_only
from bapo.selftest.ingredients import CHARACTERS, END, character_tokenizer
from bapo.tasks import open_image
from bapo.tasks.geometry import build_geometry
from bapo.types import IMAGE_MARK, ChatMessage, Prompt

SPECIAL = {
    "qwen2_5_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "llava": ["<image>"],
    "idefics3": ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"],
}
ARCHITECTURES = [*SPECIAL]
TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }}>{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}a>{% endif %}"
)
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": END,
    "pad_token_id": 0,
    "bos_token_id": None,
}
_VISION = {"hidden_size": 16, "intermediate_size": 24, "initializer_range": 0.3}


def picture_tokenizer(architecture: str) -> Any:
    """The character tokenizer with an architecture's special tokens behind its characters."""
    tokenizer = character_tokenizer(CHARACTERS + "x?u\n")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[architecture]})
    return tokenizer


def tiny_picture_model(architecture: str) -> PreTrainedModel:
    """A random model of two decoder layers and two vision layers."""
    tokenizer = picture_tokenizer(architecture)
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL[architecture]}
    text = {**_TEXT, "vocab_size": len(tokenizer)}
    if architecture == "qwen2_5_vl":
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 100.0}
        changes = {
            "text_config": {**text, "rope_parameters": rope},
            "vision_config": {
                **_VISION,
                **{"depth": 2, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2},
                **{"temporal_patch_size": 1, "out_hidden_size": 32, "window_size": 28},
                "fullatt_block_indexes": [1],
            },
            "image_token_id": token["<|image_pad|>"],
            "video_token_id": token["<|video_pad|>"],
            "vision_start_token_id": token["<|vision_start|>"],
            "vision_end_token_id": token["<|vision_end|>"],
        }
    else:
        vision = {
            **_VISION,
            **{"num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14},
            "image_size": 56,
        }
        changes = {
            "text_config": {**text, "model_type": "llama"},
            "image_token_id": token["<image>"],
        }
        if architecture == "llava":
            changes |= {"vision_config": {**vision, "model_type": "siglip_vision_model"}}
            changes |= {"vision_feature_select_strategy": "full", "vision_feature_layer": -1}
        else:
            changes |= {"vision_config": vision, "scale_factor": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(architecture, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config).eval()


def picture_processor(architecture: str) -> Any:
    """The processor of an architecture, with its own classes."""
    tokenizer = picture_tokenizer(architecture)
    common = {"do_resize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if architecture == "qwen2_5_vl":
        images = Qwen2VLImageProcessorPil(
            patch_size=7, temporal_patch_size=1, merge_size=2, **common
        )
        image = "<|vision_start|><|image_pad|><|vision_end|>"
        return image_only(Qwen2_5_VLProcessor)(
            images, tokenizer, chat_template=TEMPLATE.replace("IMAGE", image)
        )
    template = TEMPLATE.replace("IMAGE", "<image>")
    if architecture == "llava":
        size = {"height": 56, "width": 56}
        images = LlavaImageProcessorPil(crop_size=size, do_center_crop=False, **common)
        return LlavaProcessor(
            *(images, tokenizer),
            patch_size=14,
            vision_feature_select_strategy="full",
            chat_template=template,
        )
    edge = {"longest_edge": 56}
    images = Idefics3ImageProcessorPil(
        **{**common, "do_resize": True}, size=edge, max_image_size=edge, do_image_splitting=True
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


def save_picture_policy(folder: Path, architecture: str) -> Path:
    """Saves a tiny model with its processor, in save_pretrained format."""
    tiny_picture_model(architecture).save_pretrained(folder)
    picture_processor(architecture).save_pretrained(folder)
    return folder


def loaded_picture_policy(folder: Path, architecture: str) -> Policy:
    """A tiny policy, saved and loaded by the ordinary path."""
    path = str(save_picture_policy(folder, architecture))
    return load_policy(ModelSettings(path=path, device="cpu"))


def picture_engine(
    policy: Policy, *, max_new_tokens: int = 8, token_budget: int = 32768
) -> EmbeddedEngine:
    """An engine that holds the policy's weights as version 0 and opens all kinds of pictures."""
    settings = RolloutSettings(
        max_new_tokens=max_new_tokens, max_prompt_tokens=200, token_budget=token_budget
    )
    engine = EmbeddedEngine.of_policy(policy, settings, open_image=open_image)
    engine.publish(0, dict(policy.model.named_parameters()))
    return engine


def figure_prompts(count: int = 3, size: int = 56) -> list[Prompt]:
    """Geometry problems; the first is asked in a chat, and the last is text without a picture."""
    prompts = build_geometry({"picture_size": size}).evaluation_prompts(count)
    first = prompts[0]
    chat = (ChatMessage("user", f"1+{IMAGE_MARK}2"),)
    asked = Prompt(first.prompt_id, chat, first.columns, images=first.images)
    return [asked, *prompts[1:], Prompt("text", "1+2=", {"answer": 3})]
