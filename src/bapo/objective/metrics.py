"""From the sums that `policy_loss` returns to the metrics of a step; see docs/metrics.md."""

import math
from collections.abc import Mapping

SUM_NAMES = (
    "tokens",
    "importance_weight",
    "importance_weight_truncated",
    "ratio_clipped",
    "entropy",
    "kl_behavior",
)
"""The names of the sums, in the order in which ranks exchange them."""

OBJECTIVE_METRICS = {
    "importance_weight_mean": "importance_weight",
    "importance_weight_truncated_share": "importance_weight_truncated",
    "ratio_clipped_share": "ratio_clipped",
    "entropy": "entropy",
    "kl_behavior": "kl_behavior",
}
"""Each metric and the sum that it is the mean over tokens of."""


def objective_metrics(sums: Mapping[str, float]) -> dict[str, float | None]:
    """Means over tokens.

    Args:
        sums: The value of each of `SUM_NAMES`, added up over the micro-batches, mini-batches and
            ranks of a step.

    Returns:
        A value for each of `OBJECTIVE_METRICS`; None if there was no token, or if the mean is not
        finite, as of an entropy that is not known.
    """
    tokens = float(sums["tokens"])
    means = {
        metric: float(sums[name]) / tokens if tokens else math.nan
        for metric, name in OBJECTIVE_METRICS.items()
    }
    return {metric: mean if math.isfinite(mean) else None for metric, mean in means.items()}
