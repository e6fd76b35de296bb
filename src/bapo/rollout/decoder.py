"""A decoder written out by hand, for the Llama family on a CPU.

A token step of a small model is mostly overhead: modules, masks, attention kernels made for long
queries, and the keys of one prompt read once for every completion of it. This one runs the same
arithmetic as transformers' Llama, Qwen2 and Qwen3: projections that share an input in one product,
weights transposed for the shape of a token step, norm weights and scales multiplied into the
weights behind them, prompts held once for their whole group. Its results differ from the module's
by rounding alone, and where it does not know a model in every detail it declines, and the module
itself is run. What is not a matrix product is done by torch (`bapo.rollout.torch_decoder`) or in C
(`bapo.rollout.native_decoder`).

Rotary positions turn pairs of numbers, which transformers holds half a head apart. Here the two of
a pair stand side by side, so that a rotation is a product of complex numbers; query and key are
reordered alike, and their products stay what they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from bapo.rollout.batching import PromptBatch
from bapo.rollout.drawing import draw_tokens
from bapo.rollout.live import RowStore

_KNOWN_MODELS = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_KNOWN_ROTATIONS = ("default", "linear", "llama3")
# In wider models products take the time, and preparing the weights costs more than is gained.
WIDEST = 1024
# Tokens of prompts that are read at once; bounds the memory for many or long ones.
_READ_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer as `(inputs, outputs)`; None where the architecture has none.

    Attributes:
        qkv: Of queries, scaled, keys and values, with the norm before them.
        qkv_bias: Of the three.
        head_norms: `(H + Hk, D)` of queries, scaled, and keys.
        output: Of the attention's output.
        output_bias: Of the attention's output.
        gate_up: Of gate and up, with the norm before them.
        down: Back to the hidden states.
    """

    qkv: Tensor
    qkv_bias: Tensor | None
    head_norms: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Workspace:
    """What a step writes to: `(R, ...)` for each of the quantities named.

    Attributes:
        hidden: The hidden states.
        normed: Over their root mean square.
        qkv: Queries, keys and values.
        mixed: The attention's output before its projection.
        joined: Gate and up.
        activated: silu of the gate times up.
    """

    hidden: Tensor
    normed: Tensor
    qkv: Tensor
    mixed: Tensor
    joined: Tensor
    activated: Tensor

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.hidden)

    def first(self, rows: int) -> "Workspace":
        """The part for so many rows."""
        return Workspace(*(getattr(self, field.name)[:rows] for field in fields(self)))


def supports(model: PreTrainedModel) -> bool:
    """Whether the decoder computes what this model computes, in every detail."""
    config: Any = model.config
    if type(model) not in _KNOWN_MODELS or model.device.type != "cpu":
        return False
    plain = all(
        type(module) is nn.Linear and (module.bias is None or name != "lm_head")
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
        and config.hidden_size <= WIDEST
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and rotation in _KNOWN_ROTATIONS
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


class DecoderCache(RowStore, Protocol):
    """Keys and values of the rows, as a decoder needs them."""

    def join(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        pads: Tensor,
        prompt_of_row: Sequence[int],
    ) -> None:
        """Adds rows that continue prompts.

        Args:
            keys: `(N, Hk, P, D)` of the prompts in each layer, rotated.
            values: Likewise.
            pads: `(N,)` padding before each prompt.
            prompt_of_row: For each new row, the prompt that it continues.
        """
        ...

    def advance(self) -> None:
        """Counts the token whose keys every layer now holds."""
        ...


C = TypeVar("C", bound=DecoderCache)


class TokenDecoder(ABC, Generic[C]):
    """Runs prompts and tokens through a model's weights as they are when it is made.

    The prepared weights are copies, so it must not outlive a change of them: one is made for every
    call of the sampler.
    """

    joins = pads = True

    def __init__(self, model: PreTrainedModel, widest: int, new_tokens: int) -> None:
        """Prepares the weights.

        Args:
            model: One that `supports` accepts.
            widest: Tokens of the longest prompt.
            new_tokens: Tokens sampled at most per completion.
        """
        body: Any = model.model
        config: Any = model.config
        attention = body.layers[0].self_attn
        self._new_tokens = new_tokens
        self._epsilon: float = config.rms_norm_eps
        self._heads: int = config.num_attention_heads
        self._key_heads: int = config.num_key_value_heads
        self._size: int = attention.head_dim
        self._order = torch.arange(self._size).view(2, -1).t().flatten()
        self._embedding: Tensor = body.embed_tokens.weight
        head: Tensor = model.get_output_embeddings().weight  # pyright: ignore
        self._head = _prepared(head, body.norm.weight)
        self._layers = [self._layer(layer, attention.scaling) for layer in body.layers]
        every = torch.arange(widest + new_tokens)[None]
        cosine, sine = body.rotary_emb(self._embedding[:1, None], position_ids=every)
        half = self._size // 2
        self._rotation = torch.complex(cosine[0, :, :half], sine[0, :, :half])[:, None]
        self._whole = self._space = self._workspace(0)

    @abstractmethod
    def store(self) -> C:
        """A cache without rows."""

    def join(self, store: C, prompts: PromptBatch, prompt_of_row: Sequence[int]) -> Tensor:
        """Runs prompts, and adds rows that continue them; see `Decoder.join`."""
        count, width = prompts.ids.shape
        shape = (len(self._layers), 2, count, self._key_heads, width, self._size)
        states = self._embedding.new_empty(shape)
        step, logits = max(1, _READ_TOKENS // width), []
        for part in (slice(start, start + step) for start in range(0, count, step)):
            # What is padding in the whole part need not be read, but must be finite.
            pads = prompts.pads[part]
            least = int(pads.min())
            states[:, :, part, :, :least] = 0.0
            ids, positions = prompts.ids[part, least:], prompts.positions[part, least:]
            logits.append(self._read(ids, pads - least, positions, states[:, :, part, :, least:]))
        store.join(states[:, 0].unbind(), states[:, 1].unbind(), prompts.pads, prompt_of_row)
        return torch.cat(logits)

    def step(self, store: C, tokens: Tensor, positions: Tensor) -> Tensor:
        """Runs the newest token of every row; see `Decoder.step`."""
        space = self._room(len(tokens))
        torch.index_select(self._embedding, 0, tokens, out=space.hidden)
        turns = self._turns(positions)
        for number, layer in enumerate(self._layers):
            self._project(layer, space)
            self._attend(number, store, space, turns)
            self._finish(layer, space)
        store.advance()
        return torch.mm(self._norm(space), self._head)

    def draw(self, logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draws a token for every row; see `draw_tokens`."""
        return draw_tokens(logits, uniforms, temperature)

    def _read(self, ids: Tensor, pads: Tensor, positions: Tensor, states: Tensor) -> Tensor:
        """Runs `(N, P)` prompts.

        Args:
            ids: Padded on the left.
            pads: `(N,)`.
            positions: `(N, P)`.
            states: `(layers, 2, N, Hk, P, D)`, takes keys, rotated, and values.

        Returns:
            `(N, V)` logits after the prompts.
        """
        count, width = ids.shape
        space = self._workspace(count * width)
        torch.index_select(self._embedding, 0, ids.flatten(), out=space.hidden)
        turns, turning = self._rotation[positions], self._heads + self._key_heads
        hidden = _hidden(pads, width) if bool(pads.any()) else None
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            self._project(layer, space)
            by_head = space.qkv.view(count, width, -1, self._size)
            pairs = torch.view_as_complex(by_head[:, :, :turning].unflatten(3, (-1, 2)))
            turned = torch.view_as_real(pairs * turns).flatten(3).transpose(1, 2)
            keys.copy_(turned[:, self._heads :])
            values.copy_(by_head[:, :, turning:].transpose(1, 2))
            mixed = functional.scaled_dot_product_attention(
                turned[:, : self._heads],
                keys,
                values,
                attn_mask=hidden,
                is_causal=hidden is None,
                scale=1.0,
                enable_gqa=self._heads != self._key_heads,
            )
            space.mixed.view(count, width, self._heads, -1).copy_(mixed.transpose(1, 2))
            self._finish(layer, space)
        last = self._norm(space).view(count, width, -1)[:, -1]
        return torch.mm(last, self._head)

    def _finish(self, layer: LayerWeights, space: Workspace) -> None:
        """What follows attention in a layer."""
        hidden = space.hidden
        hidden.addmm_(space.mixed, layer.output)
        if layer.output_bias is not None:
            hidden.add_(layer.output_bias)
        torch.mm(self._norm(space), layer.gate_up, out=space.joined)
        hidden.addmm_(self._activate(space), layer.down)

    def _project(self, layer: LayerWeights, space: Workspace) -> None:
        """Queries, keys and values of the hidden states, not yet rotated."""
        if layer.qkv_bias is None:
            torch.mm(self._norm(space), layer.qkv, out=space.qkv)
        else:
            torch.addmm(layer.qkv_bias, self._norm(space), layer.qkv, out=space.qkv)
        if layer.head_norms is not None:
            states = space.qkv.view(space.rows, -1, self._size)[:, : len(layer.head_norms)]
            length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
            length.square_().div_(self._size).add_(self._epsilon).rsqrt_()
            states.mul_(length).mul_(layer.head_norms)

    @abstractmethod
    def _turns(self, positions: Tensor) -> Tensor:
        """What `_attend` is to know of the `(R,)` positions."""

    @abstractmethod
    def _attend(self, number: int, store: C, space: Workspace, turns: Tensor) -> None:
        """`qkv` to `mixed`: rotates, appends keys and values of layer `number`, attends."""

    @abstractmethod
    def _norm(self, space: Workspace) -> Tensor:
        """The hidden states over their root mean square; the norm's weight is in what follows."""

    @abstractmethod
    def _activate(self, space: Workspace) -> Tensor:
        """`joined` to `activated`."""

    def _room(self, rows: int) -> Workspace:
        """Where a step writes; the same memory for as long as there are no more rows."""
        if rows > self._whole.rows:
            self._whole = self._workspace(rows)
        if rows != self._space.rows:
            self._space = self._whole.first(rows)
        return self._space

    def _workspace(self, rows: int) -> Workspace:
        layer, empty = self._layers[0], self._embedding.new_empty
        return Workspace(
            hidden=empty((rows, layer.qkv.shape[0])),
            normed=empty((rows, layer.qkv.shape[0])),
            qkv=empty((rows, layer.qkv.shape[1])),
            mixed=empty((rows, layer.output.shape[0])),
            joined=empty((rows, layer.gate_up.shape[1])),
            activated=empty((rows, layer.down.shape[0])),
        )

    def _layer(self, layer: Any, scale: float) -> LayerWeights:
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
        return LayerWeights(
            qkv=_prepared(torch.cat((*weights, values.weight)), before),
            qkv_bias=bias,
            head_norms=head_norms,
            output=_prepared(attention.o_proj.weight),
            output_bias=attention.o_proj.bias,
            gate_up=_prepared(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)), behind),
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


def _hidden(pads: Tensor, width: int) -> Tensor:
    """`(N, 1, P, P)` 0, or minus infinity where a token does not see another one.

    Padding sees itself, so that nothing of it is not a number.
    """
    places = torch.arange(width)
    seen = (places <= places[:, None]) & (places >= pads[:, None, None])
    seen |= torch.eye(width, dtype=torch.bool)
    nothing = torch.zeros(seen.shape, dtype=torch.float32)
    return nothing.masked_fill_(~seen, float("-inf"))[:, None]
