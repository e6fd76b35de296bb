"""The metrics of one training step: one object in metrics.jsonl, defined in docs/metrics.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bapo.adaptation import Composition, GroupOutcome
from bapo.training.bounds import BOUND_METRICS
from bapo.training.update_report import UpdateReport
from bapo.types import FinishReason, Group, Source, VerdictStatus

Metric = int | float | None

PHASES = ("rollout", "reward", "adaptation", "proximal", "update", "sync", "checkpoint")
"""What a step's seconds are spent on."""

METRIC_KEYS: tuple[str, ...] = (
    "step",
    "epoch",
    "rollouts",
    "generated_tokens",
    "forward_tokens",
    "backward_tokens",
    "seconds",
    *(f"seconds_{phase}" for phase in PHASES),
    "groups_fresh",
    "groups_retried",
    "groups_reused",
    "groups_sampled_fresh",
    "groups_sampled_retried",
    "groups_all_wrong",
    "groups_all_right",
    "groups_unverified",
    "groups_surplus",
    "groups_refused",
    "hard_buffer_size",
    "hard_buffer_evicted",
    "prompts_retired",
    "reuse_buffer_size",
    "reuse_buffer_evicted",
    "buffer_megabytes",
    "reuse_low",
    "reuse_high",
    "reuse_window",
    "behavior_delay",
    "policy_strength",
    "correctness_fresh",
    "correctness_retried",
    "staleness_mean",
    "sampler_gap",
    "importance_cap",
    "importance_weight_mean",
    "importance_weight_truncated_share",
    "ratio_clipped_share",
    "entropy",
    "kl_behavior",
    *BOUND_METRICS,
    "loss",
    "grad_norm",
    "learning_rate",
    "updates",
    "updates_skipped",
    "step_scale",
    "peak_memory_bytes",
    *(f"verdicts_{status.value}" for status in VerdictStatus),
    "completion_tokens_mean",
    "truncated_share",
)
"""Every key of a line of metrics.jsonl, in order."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step's metrics are computed from.

    Attributes:
        fresh: Every fresh group sampled in the step.
        retried: Every retried group sampled in the step.
        composition: The batch and the fate of every group.
        update: What the learner did.
        adaptation: The state's own metrics, after the step.
        epoch: Passes over the training prompts so far.
        seconds: Time for each of `PHASES`.
    """

    fresh: Sequence[Group]
    retried: Sequence[Group]
    composition: Composition
    update: UpdateReport
    adaptation: Mapping[str, int | float]
    epoch: float
    seconds: Mapping[str, float]


def step_metrics(inputs: StepInputs) -> dict[str, Metric]:
    """The metrics of one step.

    Returns:
        A value for each of `METRIC_KEYS`, in that order; None where there is nothing to measure.
    """
    update = inputs.update
    values: dict[str, Metric] = {
        "step": inputs.composition.batch.step,
        "epoch": inputs.epoch,
        "seconds": sum(inputs.seconds.values()),
        **{f"seconds_{phase}": inputs.seconds.get(phase, 0.0) for phase in PHASES},
        **_sampling_metrics([*inputs.fresh, *inputs.retried]),
        **_group_metrics(inputs),
        **{key: value for key, value in inputs.adaptation.items() if key in METRIC_KEYS},
        **update.objective,
        **update.bound,
        "forward_tokens": update.forward_tokens,
        "backward_tokens": update.backward_tokens,
        "loss": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        "updates": update.updates,
        "updates_skipped": update.nonfinite + update.empty,
        "step_scale": update.step_scale,
        "peak_memory_bytes": update.peak_memory_bytes,
        "sampler_gap": update.sampler_gap,
        "importance_cap": update.importance_cap,
    }
    return {key: values[key] for key in METRIC_KEYS}


def _sampling_metrics(groups: Sequence[Group]) -> dict[str, Metric]:
    """Counts over everything that was sampled in the step."""
    completions = [one for group in groups for one in group.rollout.completions]
    verdicts = [one for group in groups for one in group.verdicts]
    tokens = sum(len(one.token_ids) for one in completions)
    truncated = sum(one.finish_reason is FinishReason.LENGTH for one in completions)
    return {
        "rollouts": len(completions),
        "generated_tokens": tokens,
        "completion_tokens_mean": tokens / len(completions) if completions else None,
        "truncated_share": truncated / len(completions) if completions else None,
        **{
            f"verdicts_{status.value}": sum(one.status is status for one in verdicts)
            for status in VerdictStatus
        },
    }


def _group_metrics(inputs: StepInputs) -> dict[str, Metric]:
    """Counts of groups, in the batch and among those sampled."""
    batch, fates = inputs.composition.batch, inputs.composition.fates
    verified = [group for group in inputs.fresh if group.is_verified]
    staleness = [batch.staleness(entry) for entry in batch.entries]
    return {
        **{
            f"groups_{source.value}": sum(entry.source is source for entry in batch.entries)
            for source in Source
        },
        "groups_sampled_fresh": len(inputs.fresh),
        "groups_sampled_retried": len(inputs.retried),
        "groups_all_wrong": sum(group.correctness_rate == 0 for group in verified),
        "groups_all_right": sum(group.correctness_rate == 1 for group in verified),
        "groups_unverified": len(inputs.fresh) - len(verified),
        "groups_surplus": sum(fate.outcome is GroupOutcome.SURPLUS for fate in fates),
        "groups_refused": sum(fate.outcome is GroupOutcome.REFUSED for fate in fates),
        "correctness_fresh": _mean_rate(inputs.fresh),
        "correctness_retried": _mean_rate(inputs.retried),
        "staleness_mean": sum(staleness) / len(staleness) if staleness else None,
    }


def _mean_rate(groups: Sequence[Group]) -> float | None:
    rates = [group.correctness_rate for group in groups if group.is_verified]
    return sum(rates) / len(rates) if rates else None
