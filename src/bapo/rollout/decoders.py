"""Which decoder runs token steps."""

from typing import Any

from transformers import PreTrainedModel

from bapo.errors import ModelError
from bapo.rollout.decoder import WIDEST, TokenDecoder, supports
from bapo.rollout.native import kernels, why_no_kernels
from bapo.rollout.native_decoder import NativeDecoder
from bapo.rollout.torch_decoder import TorchDecoder

_BY_HAND = {"native": NativeDecoder, "torch": TorchDecoder}


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


def made_decoder(model: PreTrainedModel, asked: str, positions: int) -> TokenDecoder[Any] | None:
    """A decoder of the model's weights as they are now; None where the module itself runs.

    Args:
        model: The model.
        asked: `rollout.decoder`.
        positions: Positions that any row may reach.

    Raises:
        ModelError: What is asked for cannot run this model here.
    """
    kind = decoder_of(model, asked)
    return None if kind == "module" else _BY_HAND[kind](model, positions)
