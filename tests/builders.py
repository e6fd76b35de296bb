"""Small builders of the shared records, so that a test states only what it is about."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bapo.types import (
    BatchEntry,
    Completion,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Source,
    TrainBatch,
    Verdict,
    VerdictStatus,
)

_STATUS_LETTERS = {
    "i": VerdictStatus.INVALID,
    "t": VerdictStatus.TIMEOUT,
    "e": VerdictStatus.ERROR,
}


def make_prompt(
    prompt_id: str = "p1",
    *,
    content: str | None = None,
    columns: dict[str, Any] | None = None,
    level: str = "",
) -> Prompt:
    """A plain-text prompt; its content is its id unless given."""
    return Prompt(prompt_id, prompt_id if content is None else content, columns or {}, level)


def make_completion(
    token_ids: Sequence[int] = (5, 6, 2),
    *,
    logps: Sequence[float] | float = -0.5,
    loss_mask: Sequence[bool] | None = None,
    finish_reason: FinishReason = FinishReason.STOP,
    text: str | None = None,
) -> Completion:
    """A completion of the given tokens; one log-probability may stand for all."""
    count = len(token_ids)
    mask = np.ones(count, dtype=np.bool_) if loss_mask is None else np.array(loss_mask, np.bool_)
    return Completion(
        token_ids=np.array(token_ids, dtype=np.int32),
        behavior_logps=np.broadcast_to(np.array(logps, dtype=np.float32), (count,)).copy(),
        loss_mask=mask,
        finish_reason=finish_reason,
        text=" ".join(str(token) for token in token_ids) if text is None else text,
    )


def make_rollout(
    prompt: Prompt | str = "p1",
    *,
    group_size: int = 4,
    tokens: int = 3,
    version: int = 0,
    step: int = 1,
    temperature: float = 1.0,
    prompt_token_ids: Sequence[int] = (3, 4),
    completions: Sequence[Completion] | None = None,
) -> Rollout:
    """A rollout of `group_size` completions, each `tokens` long; number i repeats token 5 + i."""
    made = completions or [
        make_completion([5 + index] * tokens, logps=-0.1 * (index + 1))
        for index in range(group_size)
    ]
    return Rollout(
        prompt=make_prompt(prompt) if isinstance(prompt, str) else prompt,
        prompt_token_ids=np.array(prompt_token_ids, dtype=np.int32),
        completions=tuple(made),
        policy_version=version,
        step=step,
        temperature=temperature,
    )


def make_verdict(
    correct: bool | int = True,
    *,
    score: float | None = None,
    status: VerdictStatus = VerdictStatus.OK,
    detail: str = "",
) -> Verdict:
    """A verdict whose score is its correctness unless given."""
    return Verdict(bool(correct), float(correct) if score is None else score, status, 0.0, detail)


def make_verdicts(pattern: str | float, group_size: int = 4) -> tuple[Verdict, ...]:
    """Verdicts from a pattern or from a rate.

    Args:
        pattern: A text of one letter per completion: `1` right, `0` wrong, `i` invalid,
            `t` timeout, `e` error; or the correctness rate, of which the first ones are right.
        group_size: Completions, where `pattern` is a rate.
    """
    if isinstance(pattern, str):
        return tuple(
            make_verdict(False, status=_STATUS_LETTERS[letter], detail="made by a test")
            if letter in _STATUS_LETTERS
            else make_verdict(int(letter))
            for letter in pattern
        )
    right = round(pattern * group_size)
    if abs(right - pattern * group_size) > 1e-9:
        raise ValueError(f"{pattern} of {group_size} is not a whole number of right answers.")
    return make_verdicts("1" * right + "0" * (group_size - right))


def make_group(
    prompt: Prompt | str = "p1",
    pattern: str | float = 0.5,
    *,
    group_size: int = 4,
    version: int = 0,
    step: int = 1,
    tokens: int = 3,
    temperature: float = 1.0,
    scores: Sequence[float] | None = None,
) -> Group:
    """A verified group; `pattern` as in `make_verdicts`, `scores` replace what follows from it."""
    verdicts = make_verdicts(pattern, group_size)
    if scores is not None:
        verdicts = tuple(
            Verdict(verdict.correct, score, verdict.status, 0.0, verdict.detail)
            for verdict, score in zip(verdicts, scores, strict=True)
        )
    rollout = make_rollout(
        prompt,
        group_size=len(verdicts),
        tokens=tokens,
        version=version,
        step=step,
        temperature=temperature,
    )
    return Group(rollout, verdicts)


def make_batch(step: int, *entries: tuple[Group, Source]) -> TrainBatch:
    """A training batch of the given groups and sources."""
    return TrainBatch(step, tuple(BatchEntry(group, source) for group, source in entries))


def through_disk(tree: Any) -> Any:
    """A state tree as JSON and arrays, apart and together again, as a checkpoint keeps it."""
    arrays: dict[str, np.ndarray] = {}

    def detach(value: Any) -> dict[str, str]:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{value!r} is neither a plain value nor an array.")
        name = str(len(arrays))
        arrays[name] = value.copy()
        return {"__array__": name}

    def attach(value: dict[str, Any]) -> Any:
        return arrays[value["__array__"]] if set(value) == {"__array__"} else value

    return json.loads(json.dumps(tree, default=detach), object_hook=attach)
