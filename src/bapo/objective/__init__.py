"""The objective: pure tensor functions from scores and log-probabilities to loss and metrics."""

from bapo.objective.advantages import group_advantages
from bapo.objective.kl import behavior_kl
from bapo.objective.logps import TokenLogps, token_logps
from bapo.objective.loss import LossInputs, LossOutput, loss_normaliser, policy_loss
from bapo.objective.metrics import OBJECTIVE_METRICS, SUM_NAMES, objective_metrics
from bapo.objective.ratios import (
    LOG_RATIO_LIMIT,
    ImportanceWeights,
    importance_weights,
    masked_log_ratio,
)

__all__ = [
    "LOG_RATIO_LIMIT",
    "OBJECTIVE_METRICS",
    "SUM_NAMES",
    "ImportanceWeights",
    "LossInputs",
    "LossOutput",
    "TokenLogps",
    "behavior_kl",
    "group_advantages",
    "importance_weights",
    "loss_normaliser",
    "masked_log_ratio",
    "objective_metrics",
    "policy_loss",
    "token_logps",
]
