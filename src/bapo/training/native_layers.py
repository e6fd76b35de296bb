"""Norms, activations and rotations of decoder layers in C, for float32 on a CPU.

transformers' modules make each of them of several operations, and autograd several more of every
one: a pass over memory each, where layers.c needs one forward and one backward. Which modules of a
model compute what the C functions compute is found out by trying them, and they are replaced only
while the learner runs the model: whoever else does finds it as it was.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bapo.errors import ModelError
from bapo.rollout import address, compiled

_TOLERANCE = 1e-5
"""Largest difference between a module and what replaces it, over the largest number."""

_ROTATION = "apply_rotary_pos_emb"
"""What transformers calls the function that turns queries and keys, in every model's own file."""

_ROTATED_SHAPES = ((2, 4, 3, 8), (2, 2, 3, 8), (1, 3, 8), (1, 3, 8))
"""Queries, keys, cosines and sines that a rotation is tried with."""

_NORM_BLOCK = 64
"""NORM_BLOCK in layers.c."""


@dataclass(frozen=True, slots=True)
class NativeLayers:
    """What is computed in C.

    Attributes:
        replaced: By the object and the name that it is found under: a module's `forward`, or the
            rotation of a Python module.
    """

    replaced: Mapping[tuple[Any, str], Callable[..., Any]] = field(default_factory=dict)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model computes them in C in this block."""
        before = [(place, name, vars(place).get(name)) for place, name in self.replaced]
        try:
            for (place, name), instead in self.replaced.items():
                setattr(place, name, instead)
            yield
        finally:
            for place, name, usual in before:
                if usual is None:
                    vars(place).pop(name, None)
                else:
                    setattr(place, name, usual)


@torch.no_grad()
def native_layers(model: nn.Module) -> NativeLayers:
    """Finds what of a model the C functions compute alike.

    Args:
        model: In float32 on the CPU, where `why_no_library` is empty.
    """
    found: dict[tuple[Any, str], Callable[..., Any]] = {}
    for module in model.modules():
        instead = _instead(module)
        if instead is not None:
            found[module, "forward"] = _whenever(_is_one_tensor, instead, module.forward)
        file = sys.modules.get(type(module).__module__)
        usual = getattr(file, _ROTATION, None)
        if usual is not None and _agree(usual, _rotated_pair, *_ROTATED_SHAPES):
            found[file, _ROTATION] = _whenever(_is_whole_rotation, _rotated_pair, usual)
    return NativeLayers(found)


def normalised(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`(..., W)` states over the root of their mean square plus epsilon, times `(W,)` weights."""
    return _Norm.apply(states, weight, epsilon)


def gated(gates: Tensor, ups: Tensor) -> Tensor:
    """`silu(gates) * ups`, of one shape."""
    return _Gate.apply(gates, ups)


def rotated(states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Each number and the one half a head further, turned.

    Args:
        states: `(N, H, L, D)` queries or keys; the result lies in memory as `(N, L, H, D)`.
        cosines: `(1, L, D)` or `(N, L, D)`, constants.
        sines: Likewise.
    """
    return _Rotation.apply(states, cosines, sines)


@cache
def _built() -> ctypes.CDLL | str:
    return compiled("bapo.training", "packed_attention.c", "layers.c")


def why_no_library() -> str:
    """Why there are no C functions here, as the end of a sentence; empty where there are."""
    found = _built()
    return found if isinstance(found, str) else ""


def library() -> ctypes.CDLL:
    """The C functions, built at the first call.

    Raises:
        ModelError: They cannot be built.
    """
    found = _built()
    if isinstance(found, str):
        raise ModelError(f"The learner's C functions cannot be built: {found}.")
    return found


def _instead(module: Any) -> Callable[..., Any] | None:
    """What may stand in for a module's `forward`; None where nothing may."""
    if "forward" in vars(module):
        return None
    if set(module._parameters) == {"weight"} and hasattr(module, "variance_epsilon"):
        instead, weight = partial(_norm_forward, module), module.weight
    elif {"gate_proj", "up_proj", "down_proj", "act_fn"} <= set(module._modules):
        instead, weight = partial(_mlp_forward, module), getattr(module.gate_proj, "weight", None)
    else:
        return None
    known = (
        isinstance(weight, Tensor)
        and _are_plain(weight)
        and _agree(module.forward, instead, (3, weight.shape[-1]))
    )
    return instead if known else None


def _norm_forward(module: Any, states: Tensor) -> Tensor:
    return normalised(states, module.weight, module.variance_epsilon)


def _mlp_forward(module: Any, states: Tensor) -> Tensor:
    return module.down_proj(gated(module.gate_proj(states), module.up_proj(states)))


def _rotated_pair(queries: Tensor, keys: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return rotated(queries, cos, sin), rotated(keys, cos, sin)


def _is_one_tensor(*given: Any) -> bool:
    return len(given) == 1 and _are_plain(*given)


def _are_plain(*given: Any) -> bool:
    """Tensors that C can read, where nobody asks for another number type."""
    return not torch.is_autocast_enabled("cpu") and all(
        isinstance(one, Tensor) and one.is_cpu and one.dtype is torch.float32 for one in given
    )


def _is_whole_rotation(*given: Any) -> bool:
    """Angles of every number of a head, and not of its first ones alone."""
    if len(given) != 4 or not _are_plain(*given):
        return False
    lines, _, length, size = given[0].shape
    return given[2].shape in ((1, length, size), (lines, length, size))


def _whenever(
    fits: Callable[..., bool], instead: Callable[..., Any], usual: Callable[..., Any]
) -> Callable[..., Any]:
    """`instead` for a call such as was tried; `usual` for any other."""

    def called(*given: Any, **named: Any) -> Any:
        return (instead if not named and fits(*given) else usual)(*given, **named)

    return called


def _agree(usual: Callable[..., Any], instead: Callable[..., Any], *shapes: Sequence[int]) -> bool:
    """Whether both give the same numbers for random ones of these shapes."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=generator, dtype=torch.float32) for shape in shapes]
    try:
        expected = usual(*given)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    found = instead(*given)
    if isinstance(found, Tensor):
        found, expected = (found,), (expected,)
    # Where all is zero, as behind a projection that is, nothing is known.
    return all(
        one.shape == other.shape
        and other.abs().max() > 0
        and (one - other).abs().max() <= _TOLERANCE * other.abs().max()
        for one, other in zip(found, expected, strict=True)
    )


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        states = states.contiguous()
        width = len(weight)
        assert states.shape[-1] == width
        rows = states.numel() // width
        out, scales = torch.empty_like(states), states.new_empty(rows)
        _call("norm", rows, width, states, weight, epsilon, out, scales)
        ctx.save_for_backward(states, weight, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        states, weight, scales = ctx.saved_tensors
        rows, width = len(scales), len(weight)
        of_states, parts = torch.empty_like(states), None
        if ctx.needs_input_grad[1]:
            parts = states.new_empty((-(-rows // _NORM_BLOCK), width))
        given = (states, weight, scales, of_out.contiguous(), of_states, parts)
        _call("norm_backward", rows, width, *given)
        return of_states, None if parts is None else parts.sum(dim=0), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, ups: Tensor) -> Tensor:
        assert gates.shape == ups.shape
        gates, ups = gates.contiguous(), ups.contiguous()
        out = torch.empty_like(gates)
        _call("gate", gates.numel(), gates, ups, out)
        ctx.save_for_backward(gates, ups)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_out: Tensor
    ) -> tuple[Tensor, ...]:
        gates, ups = ctx.saved_tensors
        found = torch.empty_like(gates), torch.empty_like(ups)
        _call("gate_backward", gates.numel(), gates, ups, of_out.contiguous(), *found)
        return found


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        cosines, sines = cosines.contiguous(), sines.contiguous()
        ctx.save_for_backward(cosines, sines)
        return _turned(states, cosines, sines, back=False)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        return _turned(of_out, *ctx.saved_tensors, back=True), None, None


def _turned(states: Tensor, cosines: Tensor, sines: Tensor, *, back: bool) -> Tensor:
    given = states.transpose(1, 2).contiguous()
    lines, length, heads, size = given.shape
    assert size % 2 == 0
    assert cosines.shape == sines.shape == (cosines.shape[0], length, size)
    assert len(cosines) in (1, lines)
    out = torch.empty_like(given)
    places = len(cosines) * length
    _call("rotate", lines * length, heads, size, places, given, cosines, sines, int(back), out)
    return out.transpose(1, 2)


def _call(name: str, *arguments: int | float | Tensor | None) -> None:
    """A function of layers.c: whole numbers are int64, others float, tensors where they lie."""

    def told(one: float | Tensor | None) -> Any:
        if isinstance(one, int):
            return ctypes.c_int64(one)
        if isinstance(one, float):
            return ctypes.c_float(one)
        return ctypes.c_void_p(None if one is None else address(one))

    getattr(library(), name)(*map(told, arguments), ctypes.c_int(torch.get_num_threads()))
