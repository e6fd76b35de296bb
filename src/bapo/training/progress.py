"""What a run tells whoever watches it."""

import logging
from collections.abc import Mapping
from typing import Protocol

from bapo.evaluation import Evaluation
from bapo.training.metrics import Metric


class Progress(Protocol):
    """Receives news of a run; must not slow it down."""

    def stage(self, text: str) -> None:
        """A stage of the run begins."""
        ...

    def warning(self, text: str) -> None:
        """The run does not do what it is there for."""
        ...

    def trained(self, step: int, steps: int, metrics: Mapping[str, Metric]) -> None:
        """A training step is done."""
        ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        ...


class Silence:
    """Progress that nobody watches; warnings go to the logger `bapo` of Python's own logging."""

    def stage(self, text: str) -> None:
        """Nothing."""

    def warning(self, text: str) -> None:
        """A warning of the logger, which Python prints to stderr unless it is told otherwise."""
        logging.getLogger("bapo").warning(text)

    def trained(self, step: int, steps: int, metrics: Mapping[str, Metric]) -> None:
        """Nothing."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Nothing."""
