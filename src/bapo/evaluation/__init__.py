"""Measures a policy: pass@1, pass@k, and which unsolved problems became solved."""

from bapo.evaluation.measure import Evaluation, Example, PromptResult, evaluate
from bapo.evaluation.passk import pass_at_k
from bapo.evaluation.unsolved import UnsolvedReport, unsolved_report

__all__ = [
    "Evaluation",
    "Example",
    "PromptResult",
    "UnsolvedReport",
    "evaluate",
    "pass_at_k",
    "unsolved_report",
]
