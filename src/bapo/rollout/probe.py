"""Proves after a sync that the engine runs the weights that the learner believes it runs.

Stale weights in an engine look like off-policyness: training goes on and gets slowly worse. The
probe compares log-probabilities of a few rows, computed by the engine from a published version,
with those that the learner computes from its own weights.
"""

from collections.abc import Sequence

import numpy as np

from bapo.errors import StaleEngineError
from bapo.rollout.encoding import PromptEncoder
from bapo.rollout.engine import Engine, ScoreRow
from bapo.types import FloatArray, Prompt


def probe_rows(encoder: PromptEncoder, prompts: Sequence[Prompt], count: int) -> list[ScoreRow]:
    """Rows to compare on, made of prompts alone: the first token, then the rest.

    Args:
        encoder: The engine's encoder.
        prompts: The first `count` of them are taken; a prompt of one token is repeated.
        count: At least 1.
    """
    taken = prompts[:count]
    return [
        ScoreRow(ids[:1], ids[1:] if len(ids) > 1 else ids, prompt.images)
        for ids, prompt in zip(encoder.encode_all(taken), taken, strict=True)
    ]


def check_engine(
    engine: Engine,
    rows: Sequence[ScoreRow],
    learner_logps: Sequence[FloatArray],
    *,
    version: int,
    tolerance: float,
) -> float:
    """Compares an engine's published version with the learner's weights.

    Args:
        engine: The engine.
        rows: At least one prompt and completion, as for `Engine.score`.
        learner_logps: The learner's log-probabilities of the completions, at temperature 1.
        version: The version just published.
        tolerance: Largest absolute difference allowed, `rollout.probe_tolerance`.

    Returns:
        The largest absolute difference.

    Raises:
        StaleEngineError: The difference exceeds the tolerance or is not a number.
    """
    if not rows:
        raise ValueError("The probe needs at least one row.")
    engine_logps = engine.score(rows, version=version)
    differences = [
        np.abs(ours - theirs).max()
        for ours, theirs in zip(engine_logps, learner_logps, strict=True)
    ]
    largest = float(np.max(differences))
    if not largest <= tolerance:
        raise StaleEngineError(
            f"The engine's log-probabilities for policy version {version} differ from the "
            f"learner's by up to {largest:.3g}, more than {tolerance:g} "
            "('rollout.probe_tolerance'); it does not sample from the published weights."
        )
    return largest
