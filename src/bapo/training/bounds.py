"""The bound on a step's improvement, measured on the batch with what the learner has anyway.

docs/guarantee.md has the statement and what the estimates are worth. alpha's log-probabilities are
stored with each group, those of pi_t are the proximal ones. pi is measured on the groups of the
step's last mini-batch, as the forward pass of its optimizer update saw it: after all of the step's
updates but the last one. That costs no forward pass. With one update a step pi is pi_t itself, and
what remains of the bound is the price of staleness. `objective.bound_after_update` measures pi
where it ends up, on every group, for one forward pass over the batch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bapo.objective import PUBLISHED, GroupBounds, Trust, group_bounds, trust
from bapo.training.batching import Row
from bapo.types import BatchEntry, FloatArray, Source

FloatArray64 = npt.NDArray[np.float64]

BOUND_METRICS: tuple[str, ...] = (
    *(
        f"bound_{part}_{source.value}"
        for part in ("surrogate", "penalty", "total", "published", "factor")
        for source in Source
    ),
    "tv_policy",
    "tv_behavior",
    "tv_step",
    "bound_unknown_share",
)
"""The metrics of `bound_metrics`, in order."""


@dataclass(frozen=True, slots=True)
class EntryRows:
    """A group of the batch with the rows that were made of it.

    Attributes:
        entry: The group and its source.
        rows: One for each completion, in order, with proximal log-probabilities.
    """

    entry: BatchEntry
    rows: Sequence[Row]

    @property
    def is_current(self) -> bool:
        """Whether pi_t itself sampled the group."""
        return all(row.is_current for row in self.rows)


def entries_of_minis(
    entries: Sequence[BatchEntry], minis: Sequence[Sequence[Row]]
) -> list[list[EntryRows]]:
    """The groups of each mini-batch with their rows; undoes what `mini_batches` dealt out."""
    dealt: list[list[EntryRows]] = []
    for start, rows in enumerate(minis):
        remaining = iter(rows)
        dealt.append(
            [
                EntryRows(entry, [next(remaining) for _ in range(entry.group.size)])
                for entry in entries[start :: len(minis)]
            ]
        )
    return dealt


def behavior_distances(groups: Iterable[EntryRows]) -> list[float]:
    """TV(pi_t, alpha) of each group, one-sided estimate in [0, 1]; NaN if a ratio is not finite."""
    return [_distance(_log_ratios(group.rows, "proximal_logps")) for group in groups]


def stale_distances(groups: Sequence[EntryRows]) -> dict[Source, list[float]]:
    """TV(pi_t, alpha) of the groups that pi_t did not sample, by source."""
    return {
        source: behavior_distances(
            one for one in groups if one.entry.source is source and not one.is_current
        )
        for source in Source
    }


def policy_distances(groups: Iterable[EntryRows]) -> list[float]:
    """TV(pi, alpha) of each group, likewise; every row must have `policy_logps`."""
    return [_distance(_log_ratios(group.rows, "policy_logps")) for group in groups]


def step_distances(groups: Iterable[EntryRows], cap: float) -> list[float]:
    """TV(pi, pi_t) of each group, from completions that alpha sampled.

    The mean of max(0, pi_t / alpha - pi / alpha) has the mean TV(pi, pi_t), for the reason for
    which `tv_one_sided` has; where alpha is pi_t it is the same. Its spread is that of
    pi_t / alpha, which is cut at `cap`: the mean is then too small, and never too large.

    Args:
        groups: Every row must have `policy_logps`.
        cap: Above 0.
    """
    return [_step_distance(group, cap) for group in groups]


def bound_metrics(
    groups: Sequence[EntryRows], measured: Sequence[EntryRows], *, cap: float
) -> dict[str, float | None]:
    """The bound per source, and the distances, as means over groups.

    Args:
        groups: The whole batch; TV(pi_t, alpha) is the mean over it.
        measured: The groups whose rows have `policy_logps`; everything else is over these.
        cap: Where ratios are cut in the surrogate, as importance weights are in the loss.

    Returns:
        A value for each of `BOUND_METRICS`; None where there is nothing to measure.
    """
    values: dict[str, float | None] = dict.fromkeys(BOUND_METRICS)
    for source in Source:
        bounds = _bounds([one for one in measured if one.entry.source is source], cap)
        if bounds:
            parts = {
                "surrogate": [one.surrogate for one in bounds],
                "penalty": [one.penalty() for one in bounds],
                "total": [one.total() for one in bounds],
                "published": [one.total(PUBLISHED) for one in bounds],
                "factor": [one.factor for one in bounds],
            }
            for part, tensors in parts.items():
                values[f"bound_{part}_{source.value}"] = float(torch.cat(tensors).mean())
    values["tv_policy"] = mean_distance(policy_distances(measured))
    values["tv_behavior"] = mean_distance(behavior_distances(groups))
    values["tv_step"] = mean_distance(step_distances(measured, cap))
    values["bound_unknown_share"] = _unknown_share(measured)
    return values


def _unknown_share(groups: Sequence[EntryRows]) -> float | None:
    """Share of groups for which no estimator of TV(pi, alpha) means anything; see `Trust`."""
    said = [
        trust(torch.from_numpy(_log_ratios(group.rows, "policy_logps"))[None])[0]
        for group in groups
    ]
    unknown = [one in (Trust.SATURATED, Trust.UNDEFINED) for one in said]
    return sum(unknown) / len(unknown) if unknown else None


def _bounds(groups: Sequence[EntryRows], cap: float) -> list[GroupBounds]:
    """The bounds of the groups that have one, those of one size together.

    None has a group without variance, with a score outside [0, 1] or with a ratio that is not
    finite.
    """
    by_size: dict[int, list[tuple[FloatArray64, FloatArray64, FloatArray64]]] = {}
    for group in groups:
        scores = np.array([verdict.score for verdict in group.entry.group.verdicts])
        if scores.min() == scores.max() or scores.min() < 0 or scores.max() > 1:
            continue
        policy = _log_ratios(group.rows, "policy_logps")
        proximal = _log_ratios(group.rows, "proximal_logps")
        if np.isfinite(policy).all() and np.isfinite(proximal).all():
            by_size.setdefault(len(scores), []).append((policy, proximal, scores))
    return [
        group_bounds(*(torch.from_numpy(np.stack(one)) for one in zip(*same, strict=True)), cap=cap)
        for same in by_size.values()
    ]


def _log_ratios(rows: Sequence[Row], name: str) -> FloatArray64:
    """`(G,)` log of pi(y) / alpha(y), for pi_t or pi, summed over the tokens that count.

    In rows that pi_t sampled, alpha is taken at the learner's own log-probabilities: there the
    engine's differ from them by rounding only, which over a long completion would add up to a
    distance that is not there.
    """
    return np.array([_log_ratio(row, getattr(row, name)) for row in rows], dtype=np.float64)


def _log_ratio(row: Row, logps: FloatArray) -> float:
    reference = row.proximal_logps if row.is_current else row.behavior_logps
    difference = logps.astype(np.float64) - np.asarray(reference, dtype=np.float64)
    return float(difference[row.loss_mask].sum())


def _distance(log_ratios: FloatArray64) -> float:
    """As `tv_one_sided`, for one group, without the detour through tensors."""
    return float(-np.expm1(np.minimum(log_ratios, 0.0)).mean())


def _step_distance(group: EntryRows, cap: float) -> float:
    proximal = _log_ratios(group.rows, "proximal_logps")
    policy = _log_ratios(group.rows, "policy_logps")
    if not np.isfinite(proximal).all():  # where both are infinite, their difference is nothing
        return float("nan")
    moved = policy - proximal
    weights = np.minimum(np.exp(np.minimum(proximal, np.log(cap))), cap)
    return float((weights * -np.expm1(np.minimum(moved, 0.0))).mean())


def mean_distance(values: Sequence[float]) -> float | None:
    """The mean of what is finite; None of nothing."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
