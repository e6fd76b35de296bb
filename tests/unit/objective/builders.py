"""Builders of loss inputs for the tests of this room."""

import torch
from torch import Tensor

from bapo.objective import LossInputs


def loss_inputs(
    policy: Tensor,
    *,
    advantages,
    proximal: Tensor | None = None,
    behavior: Tensor | None = None,
    mask: Tensor | None = None,
    on_policy: bool = True,
    entropy: Tensor | None = None,
) -> LossInputs:
    """On-policy inputs, every token counting, unless something else is said."""
    proximal = policy.detach() if proximal is None else proximal
    return LossInputs(
        policy_logps=policy,
        proximal_logps=proximal,
        behavior_logps=proximal if behavior is None else behavior,
        advantages=torch.as_tensor(advantages, dtype=torch.float32),
        mask=torch.ones(policy.shape, dtype=torch.bool) if mask is None else mask,
        sampled_by_proximal=torch.full((len(policy),), on_policy),
        entropy=entropy,
    )


def leaf(values) -> Tensor:
    """A float32 tensor that collects a gradient."""
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def ratios_to_logps(ratios) -> Tensor:
    """Log-probabilities whose ratio to probability one half is `ratios`; collects a gradient."""
    return (torch.tensor(ratios).log() + torch.tensor(0.5).log()).requires_grad_()


def half_like(logps: Tensor) -> Tensor:
    """Log-probabilities of one half everywhere."""
    return torch.full(logps.shape, 0.5).log()
