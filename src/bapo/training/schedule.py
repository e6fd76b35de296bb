"""The learning rate of each training step."""

import math

from bapo.config import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int, steps: int) -> float:
    """The learning rate of a step.

    Rises linearly over `warmup_steps`, then stays, or falls to 0 after the last step along a line
    or half a cosine.

    Args:
        settings: Peak, warm-up and schedule.
        step: The training step, from 1.
        steps: Training steps of the run.
    """
    if step <= settings.warmup_steps:
        return settings.learning_rate * step / settings.warmup_steps
    done = (step - 1 - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    factors = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }
    return settings.learning_rate * factors[settings.schedule]
