"""How many of the problems that the base model always failed are solved after training.

Sampling is random, so some of them would have been solved by asking the base once more. That share
is measured too, with the same number of completions, and must be read beside the first.
"""

from dataclasses import dataclass

from bapo.evaluation.measure import Evaluation


@dataclass(frozen=True, slots=True)
class UnsolvedReport:
    """What became of the problems that the base failed in all K completions.

    Attributes:
        unsolved: How many there are.
        solved: Of these, with at least one correct completion of K after training.
        solved_by_base: Of these, with at least one of K when the base was asked again.
    """

    unsolved: int
    solved: int
    solved_by_base: int


def unsolved_report(base: Evaluation, again: Evaluation, trained: Evaluation) -> UnsolvedReport:
    """Compares three evaluations of the same prompts with the same K.

    Args:
        base: The base model.
        again: The base model, with other seeds.
        trained: The policy after training.
    """
    unsolved = {one.id for one in base.prompts if one.valid and not one.correct}

    def solved(evaluation: Evaluation) -> int:
        return sum(one.id in unsolved and one.correct > 0 for one in evaluation.prompts)

    return UnsolvedReport(len(unsolved), solved(trained), solved(again))
