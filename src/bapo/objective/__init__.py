"""The objective: pure tensor functions from scores and log-probabilities to loss and metrics."""

from bapo.objective.advantages import group_advantages
from bapo.objective.bound import (
    PUBLISHED,
    TIGHT,
    GroupBounds,
    expected_gain,
    group_bounds,
    improvement_bound,
    penalty_factor,
    reward_deviation,
    worst_penalty_factor,
    worst_penalty_factors,
)
from bapo.objective.divergence import (
    Trust,
    effective_share,
    sequence_kl,
    sequence_log_ratio,
    token_tv,
    trust,
    tv_clipped,
    tv_one_sided,
    tv_pinsker,
    tv_token_sum,
    tv_two_sided,
)
from bapo.objective.head import head_logps
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
    "PUBLISHED",
    "SUM_NAMES",
    "TIGHT",
    "GroupBounds",
    "ImportanceWeights",
    "LossInputs",
    "LossOutput",
    "TokenLogps",
    "Trust",
    "behavior_kl",
    "effective_share",
    "expected_gain",
    "group_advantages",
    "group_bounds",
    "head_logps",
    "importance_weights",
    "improvement_bound",
    "loss_normaliser",
    "masked_log_ratio",
    "objective_metrics",
    "penalty_factor",
    "policy_loss",
    "reward_deviation",
    "sequence_kl",
    "sequence_log_ratio",
    "token_logps",
    "token_tv",
    "trust",
    "tv_clipped",
    "tv_one_sided",
    "tv_pinsker",
    "tv_token_sum",
    "tv_two_sided",
    "worst_penalty_factor",
    "worst_penalty_factors",
]
