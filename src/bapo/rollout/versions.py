"""Versions of one model's weights, put under the same module by pointer.

A policy version is the number of training steps behind the weights (`Rollout.policy_version`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bapo.errors import StaleEngineError

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Held:
    """The weights of one version, in the order of the module's parameters.

    `counters` are the in-place change counts of shared tensors at the time they were published.
    """

    tensors: tuple[Tensor, ...]
    counters: tuple[int, ...]


class VersionedWeights:
    """Holds several versions of a module's weights and puts one of them under it at a time.

    Its weights are the parameters that require a gradient. Frozen ones, such as those under an
    adapter, are the same in every version and stay where they are.

    Life cycle: `publish` takes a version, copied, or shared with its owner; `using` puts it under
    the module for the length of a `with` block and then puts back what was there; `forget` lets it
    go. A shared version is valid until its owner changes the tensors in place; using it after that
    is an error and not a silent change of policy. Nothing goes into a checkpoint: who publishes
    also restores.
    """

    def __init__(self, module: nn.Module) -> None:
        named = module.named_parameters()
        self._parameters = {name: value for name, value in named if value.requires_grad}
        # A module's state_dict also has buffers, frozen weights and second names of tied weights.
        self._also_known = set(module.state_dict()) - set(self._parameters)
        self._held: dict[int, _Held] = {}

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions held, ascending."""
        return tuple(sorted(self._held))

    def publish(self, version: int, weights: Weights, *, share: bool = False) -> None:
        """Holds weights as a version, in the place of what that version held before.

        Args:
            version: At least 0.
            weights: A tensor for every parameter that is trained, under the names of
                `named_parameters` or `state_dict`; buffers and frozen weights are not taken.
            share: Keep the given tensors and no copy; they must then stay as they are for as long
                as the version is used. A tensor of another type or device is copied all the same.

        Raises:
            ValueError: Names or shapes are not those of the module.
        """
        self._check_names(weights)
        tensors = tuple(
            self._taken(name, weights[name], parameter, share=share)
            for name, parameter in self._parameters.items()
        )
        self._held[version] = _Held(tensors, _counters(tensors))

    def forget(self, version: int) -> None:
        """Lets a version go; one that is not held is no error."""
        self._held.pop(version, None)

    @contextmanager
    def using(self, version: int) -> Iterator[None]:
        """Puts a version under the module, and puts back what was there in the end.

        Raises:
            StaleEngineError: The version is not held, or its shared tensors were changed in place.
        """
        held = self._checked(version)
        before = [parameter.data for parameter in self._parameters.values()]
        try:
            for parameter, tensor in zip(self._parameters.values(), held.tensors, strict=True):
                parameter.data = tensor
            yield
        finally:
            for parameter, tensor in zip(self._parameters.values(), before, strict=True):
                parameter.data = tensor

    def _checked(self, version: int) -> _Held:
        held = self._held.get(version)
        if held is None:
            known = ", ".join(str(number) for number in self.versions) or "none"
            raise StaleEngineError(
                f"The engine does not hold policy version {version} (it holds {known}); publish it "
                "before sampling from it."
            )
        if held.counters != _counters(held.tensors):
            raise StaleEngineError(
                f"The weights shared with the engine as policy version {version} were changed in "
                "place after they were published; publish them again under their new version."
            )
        return held

    def _check_names(self, weights: Weights) -> None:
        missing = [name for name in self._parameters if name not in weights]
        unknown = [
            name
            for name in weights
            if name not in self._parameters and name not in self._also_known
        ]
        if missing or unknown:
            problem = f"lack '{missing[0]}'" if missing else f"have the unknown '{unknown[0]}'"
            raise ValueError(f"The published weights {problem}; they belong to another model.")

    @staticmethod
    def _taken(name: str, tensor: Tensor, parameter: nn.Parameter, *, share: bool) -> Tensor:
        if tensor.shape != parameter.shape:
            raise ValueError(
                f"The published weights '{name}' have the shape {tuple(tensor.shape)}, but the "
                f"engine's model has {tuple(parameter.shape)}."
            )
        return tensor.detach().to(device=parameter.device, dtype=parameter.dtype, copy=not share)


class DelayedPolicy:
    """The behavior policy's weights: copies of the policy, made every v steps.

    At the start of step t the policy has version t - 1. With v = 1 the behavior policy is the
    current one at every step, so its tensors are kept by reference and no copy is made. A
    checkpoint keeps the version and, for v > 1, the tensors.
    """

    def __init__(self, sync_every: int) -> None:
        """Makes a policy that holds nothing yet.

        Args:
            sync_every: v, at least 1; `adaptation.sync_every`.
        """
        self._sync_every = sync_every
        self._version: int | None = None
        self._weights: dict[str, Tensor] = {}

    @property
    def version(self) -> int:
        """The version of the weights held.

        Raises:
            StaleEngineError: Nothing was copied yet.
        """
        if self._version is None:
            raise StaleEngineError("The behavior policy has no weights yet; call sync at step 1.")
        return self._version

    @property
    def weights(self) -> Weights:
        """The tensors held, to be published as shared; empty before the first sync."""
        return self._weights

    def is_due(self, step: int) -> bool:
        """Whether the behavior policy becomes the current one at a step: (step - 1) mod v = 0."""
        return (step - 1) % self._sync_every == 0

    def sync(self, step: int, weights: Weights, *, due: bool | None = None) -> bool:
        """Takes the weights at the start of a step, if they are due.

        Args:
            step: The training step t, from 1.
            weights: The policy's tensors at its start.
            due: Whether they are; None follows `is_due`.

        Returns:
            Whether they were taken; they must then be published as version `step - 1`.
        """
        if not (self.is_due(step) if due is None else due):
            return False
        self._weights = {}  # the old copy goes before the new one is made
        self._weights = {
            name: tensor.detach() if self._sync_every == 1 else tensor.detach().clone()
            for name, tensor in weights.items()
        }
        self._version = step - 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """The version (None before the first sync) and the tensors that are this object's own."""
        own = {} if self._sync_every == 1 else dict(self._weights)
        return {"version": self._version, "weights": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; the tensors are copied.

        Raises:
            ValueError: A delayed policy lacks its weights, or one that is not delayed has some.
        """
        version, weights = state["version"], state["weights"]
        if bool(weights) != (self._sync_every > 1 and version is not None):
            raise ValueError(f"version {version!r} with {len(weights)} weights")
        self._version = None if version is None else int(version)
        self._weights = {name: tensor.clone() for name, tensor in weights.items()}


def _counters(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    """How often each tensor was changed in place, as autograd counts it."""
    return tuple(0 if torch.is_inference(tensor) else tensor._version for tensor in tensors)
