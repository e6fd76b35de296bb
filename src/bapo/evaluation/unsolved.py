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

    Only prompts take part whose K completions all have a valid verdict, each time.

    Args:
        base: The base model.
        again: The base model, with other seeds.
        trained: The policy after training.
    """
    correct = [
        {one.id: one.correct for one in evaluation.prompts if one.valid == evaluation.samples}
        for evaluation in (base, again, trained)
    ]
    common = correct[0].keys() & correct[1].keys() & correct[2].keys()
    unsolved = [name for name in common if not correct[0][name]]
    solved_by_base, solved = (sum(counts[name] > 0 for name in unsolved) for counts in correct[1:])
    return UnsolvedReport(len(unsolved), solved, solved_by_base)
