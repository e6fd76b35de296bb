"""What a run tells whoever watches it."""

from collections.abc import Mapping
from typing import Protocol

from bapo.evaluation import Evaluation
from bapo.training.metrics import Metric


class Progress(Protocol):
    """Receives news of a run; must not slow it down."""

    def stage(self, text: str) -> None:
        """A stage of the run begins."""
        ...

    def trained(self, step: int, steps: int, metrics: Mapping[str, Metric]) -> None:
        """A training step is done."""
        ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        ...


class Silence:
    """Progress that nobody watches."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def trained(self, step: int, steps: int, metrics: Mapping[str, Metric]) -> None:
        """Nothing."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Nothing."""
