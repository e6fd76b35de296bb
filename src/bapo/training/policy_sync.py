"""Keeps the engine's weights in step with the learner's, and proves it at every sync."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bapo.rollout import DelayedPolicy, Engine, ScoreRow, check_engine
from bapo.training.batching import Row
from bapo.training.learner import Learner


class EnginePolicies:
    """The two policies that a step samples from: the behavior policy and the current one.

    At the start of step t the current policy has version t - 1; the behavior policy is the current
    one of the last step at which (t - 1) mod v = 0. The engine shares the learner's own tensors for
    the current version and the delayed copy's for the behavior version, so nothing is copied but at
    a sync with v > 1. A checkpoint keeps the delayed copy and its version.

    Args:
        engine: The engine.
        learner: Whose weights are published.
        sync_every: v, at least 1.
        probe: Rows on which engine and learner are compared after every sync.
        tolerance: Largest difference in log-probability allowed.
    """

    def __init__(
        self,
        engine: Engine,
        learner: Learner,
        *,
        sync_every: int,
        probe: Sequence[ScoreRow],
        tolerance: float,
    ) -> None:
        self._engine = engine
        self._learner = learner
        self._delayed = DelayedPolicy(sync_every)
        self._probe = probe
        self._tolerance = tolerance
        self._behavior: int | None = None

    def behavior(self, step: int, *, due: bool | None = None) -> int:
        """The version that fresh groups of a step come from, ready in the engine.

        Args:
            step: The training step, from 1.
            due: Whether to make it the current one; None does so every v steps.

        Raises:
            StaleEngineError: The engine's log-probabilities are not the learner's.
        """
        if self._delayed.sync(step, self._learner.weights, due=due):
            self._behavior = step - 1
            self._publish(self._behavior, self._delayed.weights)
        return self._delayed.version

    def current(self, step: int) -> int:
        """The version of the weights at the start of a step, ready in the engine.

        Raises:
            StaleEngineError: The engine's log-probabilities are not the learner's.
        """
        version = step - 1
        if version not in self._engine.versions:
            self._publish(version, self._learner.weights)
        return version

    def state_dict(self) -> dict[str, Any]:
        """The behavior policy's version and, where it is a copy, its weights."""
        return self._delayed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` gave, in the engine too.

        The probe is not run: the learner no longer has these weights, and can say nothing of them.

        Raises:
            ValueError: The weights are not those of the model.
        """
        self._delayed.load_state_dict(state)
        if self._delayed.weights:
            self._behavior = self._delayed.version
            self._engine.publish(self._behavior, self._delayed.weights, share=True)

    def _publish(self, version: int, weights: Mapping[str, Any]) -> None:
        for held in self._engine.versions:
            if held != self._behavior:
                self._engine.forget(held)
        self._engine.publish(version, weights, share=True)
        rows = [_row(one) for one in self._probe]
        check_engine(
            self._engine,
            self._probe,
            self._learner.logps(rows),
            version=version,
            tolerance=self._tolerance,
        )


def _row(probe: ScoreRow) -> Row:
    """A row that is scored and not learned from."""
    size = len(probe.completion)
    return Row(
        prompt=probe.prompt,
        completion=probe.completion,
        images=probe.images,
        behavior_logps=np.zeros(size, dtype=np.float32),
        loss_mask=np.ones(size, dtype=np.bool_),
        advantage=0.0,
        temperature=1.0,
        is_current=False,
    )
