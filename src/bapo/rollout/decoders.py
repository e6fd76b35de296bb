"""What runs prompts and token steps, and which of them runs a model."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from bapo.errors import ModelError
from bapo.rollout.batching import PromptBatch
from bapo.rollout.decoder import WIDEST, supports
from bapo.rollout.live import RowStore
from bapo.rollout.module_decoder import ModuleDecoder
from bapo.rollout.native import kernels, why_no_kernels
from bapo.rollout.native_decoder import NativeDecoder
from bapo.rollout.torch_decoder import TorchDecoder

_BY_HAND = {"native": NativeDecoder, "torch": TorchDecoder}


class Decoder(Protocol):
    """Runs prompts and tokens through a model's weights as they were when it was made.

    Attributes:
        joins: Whether rows may join others that are live.
        pads: Whether prompts of several lengths may be read together.
    """

    joins: bool
    pads: bool

    def store(self) -> RowStore:
        """A cache without rows."""
        ...

    def join(self, store: Any, prompts: PromptBatch, prompt_of_row: Sequence[int]) -> Tensor:
        """Runs prompts, and adds rows that continue them.

        Args:
            store: The cache that the rows enter, behind those that are in it.
            prompts: N of them.
            prompt_of_row: For each new row, the prompt that it continues.

        Returns:
            `(N, V)` logits after the prompts.
        """
        ...

    def step(self, store: Any, tokens: Tensor, positions: Tensor) -> Tensor:
        """Runs the newest token of every row.

        Args:
            store: The cache of the rows; the tokens' keys enter it.
            tokens: `(R,)`.
            positions: `(R,)`.

        Returns:
            `(R, V)` logits.
        """
        ...

    def draw(self, logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draws a token for every row; see `draw_tokens`."""
        ...


def decoder_of(model: PreTrainedModel, asked: str) -> str:
    """What runs token steps of a model as it is now: native, torch or module.

    Args:
        model: The model.
        asked: `rollout.decoder`.

    Raises:
        ModelError: What is asked for cannot run this model here.
    """
    if asked == "native":
        kernels()
    if asked != "module" and supports(model):
        return ("torch" if why_no_kernels() else "native") if asked == "auto" else asked
    if asked in _BY_HAND:
        raise ModelError(
            f"'rollout.decoder' is {asked}, which runs Llama, Qwen2 and Qwen3 in float32 on a CPU, "
            f"at most {WIDEST} numbers wide and without adapter layers, and not this "
            f"{type(model).__name__}; set it to auto."
        )
    return "module"


def made_decoder(
    model: PreTrainedModel, asked: str, widest: int, new_tokens: int, *, reads_pictures: bool
) -> Decoder:
    """A decoder of the model's weights as they are now.

    Args:
        model: The model.
        asked: `rollout.decoder`.
        widest: Tokens of the longest prompt.
        new_tokens: Tokens sampled at most per completion.
        reads_pictures: Whether prompts may show pictures.

    Raises:
        ModelError: What is asked for cannot run this model here.
    """
    kind = decoder_of(model, asked)
    if kind == "module":
        return ModuleDecoder(model, new_tokens, reads_pictures=reads_pictures)
    return _BY_HAND[kind](model, widest, new_tokens)
