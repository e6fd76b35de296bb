"""Keeps a training step in the region where the bound says something: scaled back, not undone.

The step is the straight line from the weights at its start to those after its updates. It is halved
until the mean distance TV(pi, alpha) over the batch is within the trust region, or no larger than
it was at the start, where old samples may be outside already. After `HALVINGS` halvings it is given
up, and the policy stays where it was. The optimizer's moments stay those of the whole step, as they
do when gradients are clipped.

What it costs: a copy of the weights, and one forward pass over the batch for every length tried.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bapo.training.bounds import EntryRows, behavior_distances, policy_distances

HALVINGS = 6
"""The shortest step tried is 1/64 of the whole."""


class WeightStep:
    """The weights before a step, and the live ones that the step moves."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        """Copies the weights as they are now.

        Args:
            live: The parameters by name; the step changes them in place.
        """
        self._live = dict(live)
        self._start = {name: tensor.detach().clone() for name, tensor in live.items()}

    @torch.no_grad()
    def halve(self) -> None:
        """Moves the live weights half of the way back to the start."""
        for name, tensor in self._live.items():
            tensor.lerp_(self._start[name], 0.5)

    @torch.no_grad()
    def undo(self) -> None:
        """Puts the live weights back to the start, to the bit."""
        for name, tensor in self._live.items():
            tensor.copy_(self._start[name])


def keep_in_region(
    step: WeightStep, groups: Sequence[EntryRows], score: Callable[[], None], radius: float
) -> float:
    """Shortens a step until the policy is in the trust region.

    Args:
        step: The step just made.
        groups: The batch, with proximal log-probabilities.
        score: Sets the rows' `policy_logps` from the live weights.
        radius: Largest mean TV(pi, alpha) allowed, unless it was larger before the step.

    Returns:
        The share of the step that was kept: 1, 1/2, ... 1 / 2^`HALVINGS`, or 0. Afterwards the
        rows' `policy_logps` are those of the weights that were kept.
    """
    if not groups:
        return 1.0
    limit = max(radius, _mean(behavior_distances(groups)))
    for halvings in range(HALVINGS + 1):
        score()
        if _mean(policy_distances(groups)) <= limit:
            return 0.5**halvings
        step.halve()
    step.undo()
    for group in groups:
        for row in group.rows:
            row.policy_logps = row.proximal_logps
    return 0.0


def _mean(distances: Sequence[float]) -> float:
    """NaN if one of them is, and then the step is not kept."""
    return float(np.mean(distances))
