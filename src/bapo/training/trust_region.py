"""Keeps every update of a training step in the region where the bound says something.

An optimizer update is the straight line from the weights before it to those after it, weight decay
included. It is shortened until two distances, means over the groups of the batch, are within the
radius:

- TV(pi, pi_t), the most that the mean reward on these prompts can fall in the step;
- TV(pi, alpha), which the bound charges K for. Where old samples were outside before the step
  already, it may not grow.

Updates are held one by one and not a step as a whole, so that every gradient is taken, and every
moment of the optimizer built, at weights that are inside the region: a second gradient taken
after a first update that went much too far points nowhere.

The length that was kept is where the next update starts, and it is doubled after every update that
was kept at once. So a learning rate that is too large costs a forward pass or two an update, and
one that is not costs one. An update that is too far at `SHORTEST` is given up.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bapo.config import ObjectiveSettings
from bapo.training.batching import Row
from bapo.training.bounds import (
    EntryRows,
    behavior_distances,
    policy_distances,
    step_distances,
)
from bapo.types import FloatArray

SHORTEST = 1.0 / 64.0
"""The smallest share of an update that is tried."""


class WeightStep:
    """The weights before an update, and the live ones that the update moves."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        """Copies the weights as they are now.

        Args:
            live: The parameters by name; the update changes them in place.
        """
        self._live = dict(live)
        self._start = {name: tensor.detach().clone() for name, tensor in live.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Makes the live weights the new start."""
        for name, tensor in self._live.items():
            self._start[name].copy_(tensor)

    @torch.no_grad()
    def shorten(self, share: float) -> None:
        """Moves the live weights back, so that a share of the way from the start is left."""
        for name, tensor in self._live.items():
            tensor.lerp_(self._start[name], 1.0 - share)

    @torch.no_grad()
    def undo(self) -> None:
        """Puts the live weights back to the start, to the bit."""
        for name, tensor in self._live.items():
            tensor.copy_(self._start[name])


class UpdateLength:
    """The share of an update that is tried first; a checkpoint keeps it."""

    def __init__(self) -> None:
        self.value = 1.0

    def kept(self, share: float, *, at_once: bool) -> None:
        """Takes what became of an update.

        Args:
            share: What was kept of it; 0 if it was given up.
            at_once: Whether that was the first length tried.
        """
        self.value = min(1.0, 2.0 * share) if at_once else max(SHORTEST, share)


class HeldStep:
    """One training step whose updates are kept in the trust region."""

    def __init__(
        self,
        live: Mapping[str, Tensor],
        groups: Sequence[EntryRows],
        logps: Callable[[Sequence[Row]], list[FloatArray]],
        length: UpdateLength,
        settings: ObjectiveSettings,
    ) -> None:
        """Remembers where the step begins.

        Args:
            live: The parameters by name.
            groups: The batch, at least one group, with proximal log-probabilities.
            logps: Scores rows with the live weights.
            length: Of the updates so far; it is moved on.
            settings: The radius, and where ratios are cut.
        """
        self._start = WeightStep(live)
        self._groups = groups
        self._rows = [row for group in groups for row in group.rows]
        self._logps = logps
        self._length = length
        self._radius = settings.trust_region
        self._cap = settings.importance_cap
        self._limit = max(self._radius, _mean(behavior_distances(groups)))
        self._accepted = [row.proximal_logps for row in self._rows]
        self._shares: list[float] = []
        self.forward_tokens = 0
        self.is_held_by_age = False

    @property
    def scale(self) -> float:
        """Mean share of the updates that was kept, in [0, 1]; 1 where there was none."""
        return float(np.mean(self._shares)) if self._shares else 1.0

    def hold(self) -> None:
        """Shortens the update just made until the policy is in the region."""
        share = first = self._length.value
        if first < 1.0:
            self._start.shorten(first)
        while not self._is_within():
            share /= 2.0
            if share < SHORTEST:
                self._start.undo()
                share = 0.0
                break
            self._start.shorten(0.5)
        else:
            self._start.restart()
            self._accepted = [row.policy_logps for row in self._rows]
        self._shares.append(share)
        self._length.kept(share, at_once=share == first)

    def settle(self) -> None:
        """Sets the rows' `policy_logps` to those of the weights that were kept."""
        for row, values in zip(self._rows, self._accepted, strict=True):
            row.policy_logps = values

    def _is_within(self) -> bool:
        for row, values in zip(self._rows, self._logps(self._rows), strict=True):
            row.policy_logps = values
        self.forward_tokens += sum(row.length for row in self._rows)
        is_near_start = _mean(step_distances(self._groups, self._cap)) <= self._radius
        is_near_behavior = _mean(policy_distances(self._groups)) <= self._limit
        self.is_held_by_age |= is_near_start and not is_near_behavior
        return is_near_start and is_near_behavior


def _mean(distances: Sequence[float]) -> float:
    """NaN if one of them is, and then the update is not kept."""
    return float(np.mean(distances))
