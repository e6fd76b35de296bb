"""What the learner may do with a model, found out by trying before it is trained.

Architectures are many, and a list of them would be wrong tomorrow. Instead two prompts with a few
completions are read both ways: what gives other numbers is not done, and the reason is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from bapo.training.batching import Row
from bapo.training.micro_batches import MicroBatch, micro_batches, visible
from bapo.training.native_layers import NativeLayers, native_layers, why_no_library
from bapo.training.packed_attention import tell_transformers
from bapo.training.packing import attention_pair_cost

_TOLERANCE, _COARSE_TOLERANCE = 1e-4, 0.25
"""Largest difference in log-probability between two ways of computing the same: in float32, and in
number types and quantised weights whose kernels round by the shape of what they are given."""

_MASKED_ATTENTIONS = ("sdpa", "eager")
"""Implementations of attention that take any mask."""


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """What holds for a model.

    Attributes:
        pair_cost: See `bapo.training.packing.packs`; None where completions cannot share a prompt.
        sharing_refused: Why they cannot, as the end of a sentence; empty where they can.
        in_line: Whether packs stand end to end, for attention that knows them and needs no mask.
        mask_dtype: Number type that attention expects of a mask.
        head: The module that makes logits from hidden states and does nothing else; None where
            there is no such module.
        layers: What is computed in C.
    """

    pair_cost: float | None = None
    sharing_refused: str = ""
    in_line: bool = False
    mask_dtype: torch.dtype = torch.float32
    head: nn.Linear | None = None
    layers: NativeLayers = field(default_factory=NativeLayers)


@torch.no_grad()
def model_traits(
    model: PreTrainedModel, *, reads_pictures: bool = False, native: bool = False
) -> ModelTraits:
    """Tries a model, before precision or distribution is wrapped around it.

    Args:
        model: The policy. Of a module without a configuration nothing is assumed.
        reads_pictures: Whether it is an image-text model. Of these nothing is tried: positions of
            pictures are counted along several axes, and remembered from call to call.
        native: Whether C functions may compute parts of it: it is trained in float32 on a CPU.
    """
    if reads_pictures:
        return ModelTraits(sharing_refused="the model reads pictures")
    if getattr(model, "config", None) is None:
        return ModelTraits(sharing_refused="the model has no configuration")
    was_training = model.training
    model.eval()
    refused = _unsuitable(model) or _trial_of_sharing(model)
    config: Any = model.config
    text = config.get_text_config()
    native = native and not why_no_library()
    in_line = native and not refused and _knows_packs(model, text)
    head = _plain_head(model)
    model.train(was_training)
    cost = None
    if not refused:
        # No pair is computed for a mask to hide where attention knows packs.
        cost = 0.0 if in_line else attention_pair_cost(text, _inner_parameters(model))
    layers = _tried(model, native_layers(model)) if native else NativeLayers()
    return ModelTraits(cost, refused, in_line, _mask_dtype(model), head, layers)


@contextmanager
def bypassed(head: nn.Linear) -> Iterator[None]:
    """The model gives what goes into its head, in place of logits."""
    head.forward = _itself
    try:
        yield
    finally:
        del head.forward


def attention_inputs(micro: MicroBatch, mask_dtype: torch.dtype) -> dict[str, Tensor]:
    """What a model needs to know of a micro-batch beside its tokens."""
    if micro.positions is None:
        return {}
    if micro.segments is None:
        mask = micro.positions[:, None, None]  # see `bapo.training.packed_attention`
    else:
        mask = visible(micro.segments, mask_dtype)
    return {"attention_mask": mask, "position_ids": micro.positions}


def _itself(input: Tensor) -> Tensor:
    return input


def _unsuitable(model: PreTrainedModel) -> str:
    """Why prompts cannot be shared, where the configuration says so; empty where it does not."""
    config: Any = model.config
    text = config.get_text_config()
    attention = text._attn_implementation
    if attention not in _MASKED_ATTENTIONS:
        return f"the attention '{attention}' takes no mask of ours"
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) and not hasattr(text, "layer_types")
    if kinds != {"full_attention"} or window:
        return "some of its layers do not see all tokens before"
    return ""


def _tried(model: PreTrainedModel, layers: NativeLayers) -> NativeLayers:
    """These layers, if the whole model gives the same numbers with them."""
    rows = _trial_rows(model)
    usual = _log_softmax(model, rows, None)
    with layers.installed():
        native = _log_softmax(model, rows, None)
    gap = max(float((usual[key] - native[key]).abs().max()) for key in usual)
    return layers if gap <= _tolerance(model) else NativeLayers()


def _knows_packs(model: PreTrainedModel, text: Any) -> bool:
    """Whether the model's attention can be replaced by one that knows packs, as a trial shows."""
    if text._attn_implementation != "sdpa":
        return False
    tell_transformers()
    return not _trial_of_sharing(model, in_line=True)


def _trial_of_sharing(model: PreTrainedModel, *, in_line: bool = False) -> str:
    """Why prompts cannot be shared, as a trial shows; empty where it shows that they can."""
    rows = _trial_rows(model)
    try:
        alone = _log_softmax(model, rows, None)
        together = _log_softmax(model, rows, 0.0, in_line=in_line)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"the model refuses positions or mask ({type(error).__name__})"
    gap = max(float((alone[key] - together[key]).abs().max()) for key in alone)
    if not gap <= _tolerance(model):
        return f"log-probabilities come out different by up to {gap:.2g}"
    return ""


def _plain_head(model: PreTrainedModel) -> nn.Linear | None:
    """The output head, if logits are its product with the hidden states and nothing else."""
    head: Any = model.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in vars(head):
        return None
    rows = _trial_rows(model)
    logits, hidden = _log_softmax(model, rows, None), _log_softmax(model, rows, None, head)
    gap = max(float((logits[key] - hidden[key]).abs().max()) for key in logits)
    return head if gap <= _tolerance(model) else None


def _log_softmax(
    model: PreTrainedModel,
    rows: list[Row],
    pair_cost: float | None,
    head: nn.Linear | None = None,
    *,
    in_line: bool = False,
) -> dict[int, Tensor]:
    """`(T, V)` before each token of each row, by the row's identity.

    Args:
        model: The model.
        rows: Of each prompt, several.
        pair_cost: 0 to put all of a prompt into one pack, None to read each by itself.
        head: Where given, it is taken out of the model and applied here.
        in_line: Whether attention is told of packs by positions alone.
    """
    (micro,) = micro_batches(rows, 1 << 20, 0, model.device, pair_cost=pair_cost, in_line=in_line)
    with nullcontext() if head is None else bypassed(head):
        outputs = model(
            input_ids=micro.token_ids,
            use_cache=False,
            logits_to_keep=micro.token_ids.shape[1] - micro.first,
            **attention_inputs(micro, _mask_dtype(model)),
        ).logits
    outputs = micro.before_targets(outputs)
    if head is not None:
        outputs = functional.linear(outputs, head.weight, head.bias)
    parts = torch.log_softmax(outputs.float(), dim=-1).split(
        [len(row.completion) for row in micro.rows]
    )
    return {id(row): part for row, part in zip(micro.rows, parts, strict=True)}


def _trial_rows(model: PreTrainedModel) -> list[Row]:
    """Completions of two prompts, in tokens that mean nothing special to the model."""
    special = _special_tokens(model.config)
    embeddings: Any = model.get_input_embeddings()
    plain = [token for token in range(len(embeddings.weight)) if token not in special][:16]
    tokens = np.resize(np.array(plain, dtype=np.int32), 15)
    first, second = tokens[:5], tokens[11:14]
    return [
        Row(
            prompt=prompt,
            completion=tokens[start:end],
            behavior_logps=np.zeros(end - start, dtype=np.float32),
            loss_mask=np.ones(end - start, dtype=np.bool_),
            advantage=0.0,
            temperature=1.0,
            is_current=False,
        )
        for prompt, start, end in (
            (first, 5, 9),
            (first, 9, 10),
            (first, 10, 15),
            (second, 2, 6),
            (second, 6, 8),
        )
    ]


def _special_tokens(config: PreTrainedConfig) -> set[int]:
    """The tokens that a configuration names; some by a list, as Llama 3 its end tokens."""
    named = [value for name, value in vars(config).items() if "token" in name]
    lists = [value if isinstance(value, list | tuple) else [value] for value in named]
    return {token for tokens in lists for token in tokens if isinstance(token, int)}


def _tolerance(model: PreTrainedModel) -> float:
    kinds = {weight.dtype for weight in model.parameters()}
    return _TOLERANCE if kinds <= {torch.float32, torch.float64} else _COARSE_TOLERANCE


def _mask_dtype(model: PreTrainedModel) -> torch.dtype:
    embeddings: Any = model.get_input_embeddings()
    return embeddings.weight.dtype


def _inner_parameters(model: PreTrainedModel) -> int:
    """Parameters without embeddings and output head."""
    outer: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    apart = {id(weight) for module in outer if module is not None for weight in module.parameters()}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in apart)
