"""Which groups may enter a batch (X1 and X2 of arXiv 2602.20722, section 3).

Every rule reads correctness and never the shaped score: with shaped rewards an all-wrong group has
variance, but what its advantages would teach is the shape of the reward and not the answer.

Departures from the paper: a group with any verdict that is not `OK` is left out altogether, and the
rule by which a retried group is accepted is a setting (`retry_accept`) with the paper's as default.
"""

from bapo.adaptation.records import GroupOutcome
from bapo.types import Group


def homogeneity(rate: float) -> GroupOutcome | None:
    """Why a group of correctness rate `rate` has no gradient, or None where it has one.

    Equivalent to 1/G <= mu <= (G-1)/G for every group size G.
    """
    if rate <= 0.0:
        return GroupOutcome.ALL_WRONG
    return GroupOutcome.ALL_RIGHT if rate >= 1.0 else None


def is_informative(group: Group) -> bool:
    """Whether a group is verified and neither all right nor all wrong."""
    return group.is_verified and homogeneity(group.correctness_rate) is None


def reject_fresh(group: Group, *, filter_fresh: bool) -> GroupOutcome | None:
    """Why a fresh group may not enter the batch, or None where it may.

    Args:
        group: A group from the behavior policy.
        filter_fresh: Whether groups that are all right or all wrong are dropped.
    """
    if not group.is_verified:
        return GroupOutcome.UNVERIFIED
    return homogeneity(group.correctness_rate) if filter_fresh else None


def reject_retried(
    group: Group, *, rule: str, hard_threshold: float, previous_rate: float
) -> GroupOutcome | None:
    """Why a retried group may not enter the batch, or None where it may.

    Args:
        group: A group from the current policy, for a prompt of the hard buffer.
        rule: `above_c1` takes c1 < mu < 1 (the paper); `improved` takes 0 < mu < 1 with mu above
            the rate that the prompt had (the released code).
        hard_threshold: c1, in [0, 1).
        previous_rate: The prompt's last correctness rate, in [0, 1].
    """
    if not group.is_verified:
        return GroupOutcome.UNVERIFIED
    rate = group.correctness_rate
    least = hard_threshold if rule == "above_c1" else previous_rate
    return homogeneity(rate) or (None if rate > least else GroupOutcome.NOT_ACCEPTED)
