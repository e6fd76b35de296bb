"""A decoder written out by hand, for single tokens of the Llama family on a CPU.

A token step of a small model is mostly overhead: modules, masks, attention kernels made for long
queries, and the keys of one prompt read once for every completion of it. This one runs the same
arithmetic as transformers' Llama, Qwen2 and Qwen3: projections that share an input in one product,
weights transposed for the shape of a token step, norm weights and scales multiplied into the
weights behind them, prompts attended to group by group (`bapo.rollout.group_cache`). Its results
differ from the module's by rounding alone, and where it does not know a model in every detail it
declines, and the module itself is run.

Rotary positions turn pairs of numbers, which transformers holds half a head apart. Here the two of
a pair stand side by side, so that a rotation is a product of complex numbers; query and key are
reordered alike, and their products stay what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from bapo.rollout.cache import RowCache
from bapo.rollout.group_cache import GroupCache

_KNOWN_MODELS = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_KNOWN_ROTATIONS = ("default", "linear", "llama3")
# In wider models products take the time, and preparing the weights costs more than is gained.
_WIDEST = 1024


@dataclass(frozen=True, slots=True)
class _Layer:
    """The weights of one layer as `(inputs, outputs)`; None where the architecture has none."""

    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class _Space:
    """What a step writes to: `(R, ...)` for each of the quantities named."""

    hidden: Tensor
    normed: Tensor
    length: Tensor
    qkv: Tensor
    mixed: Tensor
    gate: Tensor
    up: Tensor

    @property
    def rows(self) -> int:
        return len(self.hidden)

    def first(self, rows: int) -> "_Space":
        """The part for so many rows."""
        return _Space(*(getattr(self, field.name)[:rows] for field in fields(self)))


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

    The prepared weights are copies, so it must not outlive a change of them: one is made for every
    call of the sampler.
    """

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        """Prepares the weights.

        Args:
            model: One that `supports` accepts.
            positions: Positions that any row may reach.
        """
        body: Any = model.model
        config: Any = model.config
        attention = body.layers[0].self_attn
        self._epsilon = torch.tensor(config.rms_norm_eps, dtype=torch.float32)
        self._heads: int = config.num_attention_heads
        self._key_heads: int = config.num_key_value_heads
        self._size: int = attention.head_dim
        self._order = torch.arange(self._size).view(2, -1).t().flatten()
        self._embedding: Tensor = body.embed_tokens.weight
        head: Tensor = model.get_output_embeddings().weight  # pyright: ignore
        self._head = _prepared(head, body.norm.weight)
        self._layers = [self._layer(layer, attention.scaling) for layer in body.layers]
        every = torch.arange(positions)[None]
        cosine, sine = body.rotary_emb(self._embedding[:1, None], position_ids=every)
        half = self._size // 2
        self._rotation = torch.complex(cosine[0, :, :half], sine[0, :, :half])[:, None]
        self._whole = self._space = _Space(*[torch.empty(0)] * 7)

    def cache(
        self, prompts: RowCache, pads: Tensor, prompt_of_row: Sequence[int], capacity: int
    ) -> GroupCache:
        """The cache of a batch whose prompts went through the model; see `GroupCache`."""
        return GroupCache(prompts, pads, prompt_of_row, capacity, self._heads, self._order)

    def step(self, caches: Sequence[GroupCache], tokens: Tensor, positions: Tensor) -> Tensor:
        """Runs the newest token of every row of every batch.

        Args:
            caches: Of the batches; the tokens' keys enter them.
            tokens: `(R,)` of all batches, one after the other.
            positions: `(R,)`.

        Returns:
            `(R, V)` logits.
        """
        space = self._room(len(tokens))
        hidden = torch.index_select(self._embedding, 0, tokens, out=space.hidden)
        rotation = self._rotation.index_select(0, positions)
        for number, layer in enumerate(self._layers):
            self._attend(number, layer, caches, space, rotation)
            normed = self._norm(space)
            torch.mm(normed, layer.gate, out=space.gate)
            torch.mm(normed, layer.up, out=space.up)
            functional.silu(space.gate, inplace=True).mul_(space.up)
            hidden.addmm_(space.gate, layer.down)
        for cache in caches:
            cache.advance()
        return torch.mm(self._norm(space), self._head)

    def _attend(
        self,
        number: int,
        layer: _Layer,
        caches: Sequence[GroupCache],
        space: "_Space",
        rotation: Tensor,
    ) -> None:
        heads, turning = self._heads, self._heads + self._key_heads
        normed = self._norm(space)
        if layer.qkv_bias is None:
            torch.mm(normed, layer.qkv, out=space.qkv)
        else:
            torch.addmm(layer.qkv_bias, normed, layer.qkv, out=space.qkv)
        joined = space.qkv.view(len(normed), -1, self._size)
        if layer.head_norms is not None:
            self._norm_heads(joined[:, :turning], layer.head_norms)
        pairs = torch.view_as_complex(joined.unflatten(2, (-1, 2)))
        queries = torch.mul(pairs[:, :heads], rotation)
        flat = torch.view_as_real(queries).view(-1, self._size)
        mixed = space.mixed.view(-1, self._size)
        start = 0
        for cache in caches:
            end = start + cache.rows
            new = slice(start, end)
            cache.append(number, pairs[new, heads:turning], rotation[new], joined[new, turning:])
            by_head = slice(start * heads, end * heads)
            cache.attend(number, flat[by_head], mixed[by_head])
            start = end
        space.hidden.addmm_(space.mixed, layer.output)
        if layer.output_bias is not None:
            space.hidden.add_(layer.output_bias)

    def _norm(self, space: "_Space") -> Tensor:
        """The hidden states over their root mean square; the norm's weight is in what follows."""
        length = torch.linalg.vector_norm(space.hidden, dim=-1, keepdim=True, out=space.length)
        share = 1.0 / space.hidden.shape[1]
        torch.addcmul(self._epsilon, length, length, value=share, out=length).rsqrt_()
        return torch.mul(space.hidden, length, out=space.normed)

    def _norm_heads(self, states: Tensor, weight: Tensor) -> None:
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        length = torch.addcmul(self._epsilon, length, length, value=1.0 / self._size).rsqrt_()
        states.mul_(length).mul_(weight)

    def _room(self, rows: int) -> "_Space":
        """Where a step writes; the same memory for as long as there are no more rows."""
        if rows > self._whole.rows:
            layer = self._layers[0]
            self._whole = _Space(
                hidden=torch.empty((rows, layer.qkv.shape[0])),
                normed=torch.empty((rows, layer.qkv.shape[0])),
                length=torch.empty((rows, 1)),
                qkv=torch.empty((rows, layer.qkv.shape[1])),
                mixed=torch.empty((rows, layer.output.shape[0])),
                gate=torch.empty((rows, layer.gate.shape[1])),
                up=torch.empty((rows, layer.up.shape[1])),
            )
        if rows != self._space.rows:
            self._space = self._whole.first(rows)
        return self._space

    def _layer(self, layer: Any, scale: float) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        before, behind = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        queries, keys, values = attention.q_proj, attention.k_proj, attention.v_proj
        head_norms = self._head_norms(attention, scale)
        # A norm of the queries would undo a scale that stands before it.
        early = scale if head_norms is None else 1.0
        weights = (self._in_pairs(queries.weight) * early, self._in_pairs(keys.weight))
        bias = None
        if queries.bias is not None:
            biases = (self._in_pairs(queries.bias) * early, self._in_pairs(keys.bias))
            bias = torch.cat((*biases, values.bias))
        return _Layer(
            qkv=_prepared(torch.cat((*weights, values.weight)), before),
            qkv_bias=bias,
            head_norms=head_norms,
            output=_prepared(attention.o_proj.weight),
            output_bias=attention.o_proj.bias,
            gate=_prepared(mlp.gate_proj.weight, behind),
            up=_prepared(mlp.up_proj.weight, behind),
            down=_prepared(mlp.down_proj.weight),
        )

    def _head_norms(self, attention: Any, scale: float) -> Tensor | None:
        """`(H + Hk, D)` weights of the norms of queries, scaled, and of keys."""
        query_norm = getattr(attention, "q_norm", None)
        key_norm = getattr(attention, "k_norm", None)
        if query_norm is None or key_norm is None:
            return None
        of_queries = (query_norm.weight[self._order] * scale).expand(self._heads, -1)
        return torch.cat((of_queries, key_norm.weight[self._order].expand(self._key_heads, -1)))

    def _in_pairs(self, weight: Tensor) -> Tensor:
        """The rows of a projection's weight or bias, the two of a rotated pair side by side."""
        return weight.unflatten(0, (-1, self._size))[:, self._order].flatten(0, 1)


def _prepared(weight: Tensor, norm: Tensor | None = None) -> Tensor:
    """`(outputs, inputs)` as contiguous `(inputs, outputs)`, times the norm before it."""
    weight = weight if norm is None else weight * norm
    return weight.t().contiguous()
