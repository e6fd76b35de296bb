"""The decoupled clipped loss (arXiv 2602.20722; docs/algorithm.md).

Per token, with w = min(pi_t / alpha, w_max) and rho = pi_theta / pi_t:

    -w * min(rho * A, clip(rho, 1 - clip_low, 1 + clip_high) * A) + beta * KL(pi_theta || alpha)

Fresh, retried and reused groups go through the same formula.

With w = 1 this is GRPO's loss, and a test compares loss and gradient with TRL's. With a proximal
policy between behavior and current policy, the clip bounds the update of this step and not the
distance to old samples (arXiv 2110.00641). Departures from the released code: the clip centre is
pi_t for every source, and the KL is to the behavior policy.

A group without variance has advantage 0: its policy term and the gradient of it are exactly 0. Its
KL term, if beta is above 0, remains: it pulls pi_theta to alpha on the group's tokens too, as for
every other group, and vanishes at pi_theta = alpha. Groups that the filter drops are not in the
batch and have no KL either.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bapo.config import ObjectiveSettings
from bapo.objective.kl import behavior_kl
from bapo.objective.ratios import importance_weights, masked_log_ratio


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One micro-batch. Masked places may hold anything, NaN and infinities included.

    Attributes:
        policy_logps: `(B, T)` log-probabilities under pi_theta, with gradient.
        proximal_logps: `(B, T)` under pi_t, the policy at the start of the step; taken as
            constants.
        behavior_logps: `(B, T)` under alpha, as stored with the group; taken as constants.
        advantages: `(B,)` one for each completion.
        mask: `(B, T)` bool, True where the token takes part in the loss.
        sampled_by_proximal: `(B,)` bool, True where alpha = pi_t, so that w = 1.
        entropy: `(B, T)` in nats, for the metric only; None if it is not known.
    """

    policy_logps: Tensor
    proximal_logps: Tensor
    behavior_logps: Tensor
    advantages: Tensor
    mask: Tensor
    sampled_by_proximal: Tensor
    entropy: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuses shapes that would broadcast into a plausible but wrong loss."""
        shape = self.policy_logps.shape
        if len(shape) != 2:
            raise ValueError(f"Log-probabilities must have the shape (B, T), not {tuple(shape)}.")
        per_token = (self.proximal_logps, self.behavior_logps, self.mask, self.entropy)
        per_row = (self.advantages, self.sampled_by_proximal)
        if any(item is not None and item.shape != shape for item in per_token) or any(
            item.shape != shape[:1] for item in per_row
        ):
            raise ValueError(
                f"Every per-token input must be {tuple(shape)}, every per-row one ({shape[0]},)."
            )
        if self.mask.dtype != torch.bool or self.sampled_by_proximal.dtype != torch.bool:
            raise ValueError("Both masks must be of the type bool.")


@dataclass(frozen=True, slots=True)
class LossOutput:
    """What a micro-batch adds to its mini-batch.

    Attributes:
        loss: Scalar with gradient. The sum of it over all micro-batches is the mini-batch's loss.
        sums: For each of `SUM_NAMES` a scalar without gradient, summed over the micro-batch's
            tokens; add them up over micro-batches and ranks, then see `objective_metrics`.
    """

    loss: Tensor
    sums: Mapping[str, Tensor]


def loss_normaliser(mask: Tensor, aggregation: str) -> int:
    """What `policy_loss` is to be divided by, counted on a part of a mini-batch.

    Add it up over the parts and the ranks.

    Args:
        mask: `(B, T)` bool, True where the token takes part in the loss.
        aggregation: `token_mean` counts tokens, `sequence_mean` completions with at least one
            token.
    """
    return int(mask.sum() if _weighs_tokens(aggregation) else mask.any(dim=1).sum())


def policy_loss(inputs: LossInputs, settings: ObjectiveSettings, normaliser: float) -> LossOutput:
    """The part of a mini-batch's loss that comes from one micro-batch.

    Micro-batches may be cut anywhere between completions: the sum of their losses, and of their
    gradients, is that of the whole. A micro-batch without any token gives a loss of exactly 0 that
    can still be differentiated, so that every rank of a distributed run can do the same number of
    passes.

    Args:
        inputs: The micro-batch.
        settings: Clip, truncation, aggregation and KL.
        normaliser: The sum of `loss_normaliser` over the whole mini-batch, on all ranks (over the
            number of ranks, where gradients are averaged over ranks and not summed). 0 means that
            there is no token, and then the loss is 0.

    Returns:
        Loss and sums. A NaN at an unmasked place makes the loss NaN: the caller must skip the step.

    Raises:
        ValueError: The normaliser is negative or NaN, or a name in the settings is unknown.
    """
    if not normaliser >= 0:
        raise ValueError(f"The normaliser must not be negative, but is {normaliser}.")
    mask = inputs.mask
    importance = importance_weights(
        inputs.proximal_logps,
        inputs.behavior_logps,
        mask,
        sampled_by_proximal=inputs.sampled_by_proximal,
        cap=settings.importance_cap,
    )
    # A row without tokens may carry any advantage, so the mask applies to advantages as well.
    advantages = torch.where(mask, inputs.advantages.detach().float()[:, None], 0.0)
    ratio = masked_log_ratio(inputs.policy_logps, inputs.proximal_logps, mask).exp()
    low, high = 1.0 - settings.clip_low, 1.0 + settings.clip_high
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    per_token = -importance.weights * surrogate

    with torch.set_grad_enabled(settings.kl_coefficient > 0 and torch.is_grad_enabled()):
        kl = behavior_kl(
            inputs.policy_logps,
            inputs.behavior_logps,
            mask,
            estimator=settings.kl_estimator,
            cap=settings.importance_cap,
        )
    if settings.kl_coefficient > 0:
        per_token = per_token + settings.kl_coefficient * kl

    with torch.no_grad():
        clipped = ((ratio < low) & (advantages < 0)) | ((ratio > high) & (advantages > 0))
        unknown = torch.full_like(kl, torch.nan)
        entropy = unknown if inputs.entropy is None else inputs.entropy.float()
        sums = {
            "tokens": mask.sum(),
            "importance_weight": (importance.weights * mask).sum(),
            "importance_weight_truncated": importance.truncated.sum(),
            "ratio_clipped": clipped.sum(),
            "entropy": torch.where(mask, entropy, 0.0).sum(),
            "kl_behavior": kl.sum(),
        }
    loss = _aggregate(per_token, mask, settings.aggregation) / (normaliser or 1.0)
    return LossOutput(loss, {name: value.double() for name, value in sums.items()})


def _aggregate(per_token: Tensor, mask: Tensor, aggregation: str) -> Tensor:
    """Sum over tokens, or over the means of the completions; `per_token` is 0 where masked."""
    if _weighs_tokens(aggregation):
        return per_token.sum()
    return (per_token.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum()


def _weighs_tokens(aggregation: str) -> bool:
    """Whether every token weighs the same, or every completion."""
    if aggregation not in ("token_mean", "sequence_mean"):
        raise ValueError(
            f"Unknown aggregation '{aggregation}'; known are token_mean, sequence_mean."
        )
    return aggregation == "token_mean"
