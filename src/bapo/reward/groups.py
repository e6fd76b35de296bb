"""From rollouts to groups: every completion gets its verdict."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bapo.config import RewardSettings
from bapo.reward.pool import VerifierPool
from bapo.reward.work import Answer
from bapo.types import Columns, Completion, Group, Prompt, Rollout, Verdict, VerdictStatus

TOKENS = "completion_ids"
"""The name under which a verifier may ask for a completion's tokens, as TRL's may."""


def verify_rollouts(
    pool: VerifierPool, rollouts: Sequence[Rollout], max_new_tokens: int = 0
) -> list[Group]:
    """Verifies every completion of every rollout.

    A verifier that names the column `prompts`, as TRL's reward functions may, is given the
    prompt's content: a text, or a list of `{"role": ..., "content": ...}`. One that names
    `completion_ids` is given the tokens. The pool's settings say what of a completion it sees and
    in which form, and what a completion's length costs.

    Args:
        pool: An open pool.
        rollouts: Any number of them; group sizes may differ.
        max_new_tokens: The limit at which they were cut off; 0 means that length costs nothing.

    Returns:
        One group for each rollout, in order.

    Raises:
        VerifierError: The verifier can no longer be started.
    """
    settings = pool.settings
    seen = [[_seen(one.text, settings.answer_after) for one in r.completions] for r in rollouts]
    items: list[tuple[Answer, Columns]] = []
    for rollout, texts in zip(rollouts, seen, strict=True):
        columns = columns_of(rollout.prompt, pool.named_columns)
        for completion, text in zip(rollout.completions, texts, strict=True):
            if text is not None:
                given = _with_tokens(columns, completion, pool.named_columns)
                items.append((_as_given(text, rollout.prompt, settings), given))
    verdicts = iter(pool.verify(items))
    groups: list[Group] = []
    for rollout, texts in zip(rollouts, seen, strict=True):
        found = [_unanswered(settings) if text is None else next(verdicts) for text in texts]
        pairs = zip(found, rollout.completions, strict=True)
        shaped = tuple(_for_length(*pair, settings, max_new_tokens) for pair in pairs)
        groups.append(Group(rollout, shaped))
    return groups


def _seen(text: str, marker: str) -> str | None:
    """What the verifier sees of a completion: all, or what follows the last marker, if any does."""
    if not marker:
        return text
    _, found, after = text.rpartition(marker)
    return after if found else None


def _unanswered(settings: RewardSettings) -> Verdict:
    """The verdict on a completion that never came to its answer: wrong, and nobody's failure."""
    detail = f"There is no answer, as {settings.answer_after!r} never came."
    return Verdict(False, 0.0, detail=detail)


def _as_given(text: str, prompt: Prompt, settings: RewardSettings) -> Answer:
    if settings.completions_as == "text" or isinstance(prompt.content, str):
        return text
    return [{"role": "assistant", "content": text}]


def _with_tokens(columns: Columns, completion: Completion, named: Sequence[str]) -> Columns:
    if TOKENS not in named or TOKENS in columns:
        return columns
    return {**columns, TOKENS: completion.token_ids.tolist()}


def _for_length(
    verdict: Verdict, completion: Completion, settings: RewardSettings, max_new_tokens: int
) -> Verdict:
    """The verdict with a score that falls over the last tokens before the limit.

    References:
        DAPO's soft overlong punishment (arXiv 2503.14476, equation 13).
    """
    over = len(completion.token_ids) - (max_new_tokens - settings.overlong_tokens)
    costs = settings.overlong_tokens and max_new_tokens
    if not costs or over <= 0 or verdict.status is not VerdictStatus.OK:
        return verdict
    share = min(1.0, over / settings.overlong_tokens)
    return replace(verdict, score=verdict.score - settings.overlong_penalty * share)


def columns_of(prompt: Prompt, named: Sequence[str]) -> Columns:
    """The prompt's columns, with its content as `prompts` where the verifier names that."""
    if "prompts" not in named or "prompts" in prompt.columns:
        return prompt.columns
    content: Any = prompt.content
    if not isinstance(prompt.content, str):
        content = [{"role": turn.role, "content": turn.content} for turn in prompt.content]
    return {**prompt.columns, "prompts": content}


def count_statuses(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """`verdicts_ok`, `verdicts_invalid`, `verdicts_timeout`, `verdicts_error`: how many of each."""
    counts = Counter(verdict.status for verdict in verdicts)
    return {f"verdicts_{status.value}": counts[status] for status in VerdictStatus}
