"""A decoder written out by hand, for single tokens of the Llama family on a CPU.

A token step of a small model is mostly overhead: modules, masks, attention kernels made for long
queries. This one runs the same arithmetic as transformers' Llama, Qwen2 and Qwen3, on the module's
own weights: projections that share an input in one product, and one batched product each for
scores and values. Its results differ from the module's by rounding alone, and where it does not
know a model in every detail it declines, and the module itself is run.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from bapo.rollout.cache import RowCache, RowCacheLayer

_KNOWN_MODELS = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_KNOWN_ROTATIONS = ("default", "linear", "llama3")
# In wider models products take the time, and joined weights would only cost memory.
_WIDEST = 1024


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer; biases and head norms are None where the architecture has none."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


def supports(model: PreTrainedModel) -> bool:
    """Whether the decoder computes what this model computes, in every detail."""
    config: Any = model.config
    if type(model) not in _KNOWN_MODELS or model.device.type != "cpu":
        return False
    plain = all(
        type(module) is nn.Linear
        for name, module in model.named_modules()
        if name.endswith(("_proj", "lm_head"))
    )
    # A forward set on an instance is a wrapper's, such as autocast in mixed precision.
    hooked = torch.is_autocast_enabled("cpu") or any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in model.modules()
    )
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    return (
        plain
        and not hooked
        and {value.dtype for value in model.parameters()} == {torch.float32}
        and config.hidden_size <= _WIDEST
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and rotation in _KNOWN_ROTATIONS
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


class TokenDecoder:
    """Runs one token per row through a model's weights as they are when it is made.

    Made for one batch: the joined weights are copies, so it must not outlive a change of them.
    """

    def __init__(
        self, model: PreTrainedModel, cache: RowCache, pads: Tensor, positions: int
    ) -> None:
        """Takes the weights.

        Args:
            model: One that `supports` accepts.
            cache: Already expanded to rows.
            pads: `(R,)` padding before each row's prompt.
            positions: Positions that any row may reach.
        """
        body: Any = model.model
        config: Any = model.config
        self._cache = cache
        self._epsilon: float = config.rms_norm_eps
        self._heads: int = config.num_attention_heads
        self._key_heads: int = config.num_key_value_heads
        self._size: int = body.layers[0].self_attn.head_dim
        self._scale: float = body.layers[0].self_attn.scaling
        self._embedding: Tensor = body.embed_tokens.weight
        self._final_norm: Tensor = body.norm.weight
        self._head: Tensor = model.get_output_embeddings().weight  # pyright: ignore
        self._layers = [_joined(layer) for layer in body.layers]
        every = torch.arange(positions)[None]
        cosine, sine = body.rotary_emb(self._embedding[:1, None], position_ids=every)
        # Rotating halves with a sign is the same as swapping halves under a signed sine.
        half = self._size // 2
        self._cosine = cosine[0]
        self._sine = torch.cat((-sine[0, :, :half], sine[0, :, half:]), dim=-1)
        # Only the columns that are padding in some row need a mask.
        self._padded = int(pads.max())
        columns = torch.arange(self._padded)
        self._mask = torch.zeros((len(pads), self._padded)).masked_fill_(
            columns < pads[:, None], float("-inf")
        )

    def keep(self, index: Tensor) -> None:
        """Drops all but the rows of `index`, in its order; the cache is dropped elsewhere."""
        self._mask = self._mask[index]

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`(R, V)` logits after `(R,)` tokens at `(R,)` positions, whose keys enter the cache."""
        hidden = self._embedding[tokens]
        cosine, sine = self._cosine[positions][:, None], self._sine[positions][:, None]
        for layer, cached in zip(self._layers, self._cache.layers, strict=True):
            hidden = self._attend(hidden, layer, cached, cosine, sine)
            hidden = self._transform(hidden, layer)
        return functional.linear(self._norm(hidden, self._final_norm), self._head)

    def _attend(
        self, hidden: Tensor, layer: _Layer, cached: RowCacheLayer, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        rows, heads, key_heads, size = len(hidden), self._heads, self._key_heads, self._size
        joined = functional.linear(
            self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias
        ).view(rows, heads + 2 * key_heads, size)
        turned = joined[:, : heads + key_heads]
        if layer.query_norm is not None and layer.key_norm is not None:
            queries = self._norm(turned[:, :heads], layer.query_norm)
            turned = torch.cat((queries, self._norm(turned[:, heads:], layer.key_norm)), dim=1)
        swapped = turned.roll(size // 2, dims=-1)
        turned = torch.addcmul(turned * cosine, swapped, sine)
        keys, values = cached.update(turned[:, heads:, None], joined[:, heads + key_heads :, None])
        length = cached.length
        queries = turned[:, :heads].reshape(rows * key_heads, heads // key_heads, size)
        flat_keys = keys.view(rows * key_heads, length, size)
        scores = torch.bmm(queries, flat_keys.transpose(1, 2)).mul_(self._scale)
        if self._padded:
            by_row = scores.view(rows, heads, length)
            by_row[:, :, : self._padded] += self._mask[:, None]
        shares = torch.softmax(scores, dim=-1)
        mixed = torch.bmm(shares, values.view(rows * key_heads, length, size))
        mixed = functional.linear(mixed.view(rows, heads * size), layer.output, layer.output_bias)
        return mixed.add_(hidden)

    def _transform(self, hidden: Tensor, layer: _Layer) -> Tensor:
        both = functional.linear(self._norm(hidden, layer.mlp_norm), layer.gate_up)
        gate, up = both.chunk(2, dim=-1)
        return torch.addmm(hidden, functional.silu(gate).mul_(up), layer.down.t())

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, weight.shape, weight, self._epsilon)


def _joined(layer: Any) -> _Layer:
    """The weights of a transformers layer, projections of the same input joined."""
    attention, mlp = layer.self_attn, layer.mlp
    inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
    biased = attention.q_proj.bias is not None
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=torch.cat([projection.weight for projection in inputs]),
        qkv_bias=torch.cat([projection.bias for projection in inputs]) if biased else None,
        query_norm=None if query_norm is None else query_norm.weight,
        key_norm=None if key_norm is None else key_norm.weight,
        output=attention.o_proj.weight,
        output_bias=attention.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight,
    )
