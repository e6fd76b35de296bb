"""The figures of the report: variants in, a `Picture` out, or None if nothing was measured."""

from bapo.reporting.figures.accuracy import accuracy_figure, base_accuracy
from bapo.reporting.figures.batches import batch_figure
from bapo.reporting.figures.cost import cost_figure
from bapo.reporting.figures.difficulty import difficulty_figure
from bapo.reporting.figures.guarantee import BOUND_CAPTION, guarantee_figure
from bapo.reporting.figures.health import health_figure
from bapo.reporting.figures.style import Look, Picture, looks
from bapo.reporting.figures.unsolved import SolvedShare, solved_share, unsolved_figure

__all__ = [
    "BOUND_CAPTION",
    "Look",
    "Picture",
    "SolvedShare",
    "accuracy_figure",
    "base_accuracy",
    "batch_figure",
    "cost_figure",
    "difficulty_figure",
    "guarantee_figure",
    "health_figure",
    "looks",
    "solved_share",
    "unsolved_figure",
]
