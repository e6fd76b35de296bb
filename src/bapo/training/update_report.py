"""What the learner says of one training step."""

from dataclasses import dataclass, field

from bapo.training.bounds import BOUND_METRICS
from bapo.types import Source


@dataclass(slots=True)
class UpdateReport:
    """What a training step's learning did.

    Attributes:
        loss: Mean over the optimizer updates that were applied; None without any.
        grad_norm: Likewise, before clipping.
        learning_rate: Of this step.
        updates: Optimizer updates applied.
        nonfinite: Optimizer updates not applied because loss or gradient was not finite.
        empty: Optimizer updates not applied because no token of their mini-batch takes part in the
            loss, as where all completions were cut off; see `objective.mask_truncated`.
        groups_skipped: Places in the batch of the groups of these updates.
        forward_tokens: Tokens read without gradient: prompt and completion of every row, whether or
            not rows share the prompt's computation; padding not.
        backward_tokens: Tokens read with gradient, likewise.
        objective: The metrics of `objective_metrics`.
        bound: The metrics of `bound_metrics`.
        distances: TV(pi_t, alpha) of each stale group of the batch, by source.
        sampler_gap: Largest difference found between the sampler's log-probabilities and a forward
            pass, on a few rows of the current weights; None where there are none.
        step_scale: Share of the step that was kept, in [0, 1]; see `objective.enforce_bound`.
        is_held_by_age: Whether an update was shortened for TV(pi, alpha) alone, which a sync cures.
        importance_cap: Where importance weights were cut.
        peak_memory_bytes: See `bapo.training.memory`.
        seconds_proximal: Time for the proximal log-probabilities.
        seconds_update: Time for the optimizer updates.
    """

    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float = 0.0
    updates: int = 0
    nonfinite: int = 0
    empty: int = 0
    groups_skipped: tuple[int, ...] = ()
    forward_tokens: int = 0
    backward_tokens: int = 0
    objective: dict[str, float | None] = field(default_factory=dict)
    bound: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(BOUND_METRICS))
    distances: dict[Source, list[float]] = field(default_factory=dict)
    sampler_gap: float | None = None
    step_scale: float = 1.0
    is_held_by_age: bool = False
    importance_cap: float | None = None
    peak_memory_bytes: int = 0
    seconds_proximal: float = 0.0
    seconds_update: float = 0.0
