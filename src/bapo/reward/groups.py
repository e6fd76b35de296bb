"""From rollouts to groups: every completion gets its verdict."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from bapo.reward.pool import VerifierPool
from bapo.types import Columns, Group, Prompt, Rollout, Verdict, VerdictStatus


def verify_rollouts(pool: VerifierPool, rollouts: Sequence[Rollout]) -> list[Group]:
    """Verifies every completion of every rollout.

    A verifier that names the column `prompts`, as TRL's reward functions may, is given the
    prompt's content: a text, or a list of `{"role": ..., "content": ...}`.

    Args:
        pool: An open pool.
        rollouts: Any number of them; group sizes may differ.

    Returns:
        One group for each rollout, in order.

    Raises:
        VerifierError: The verifier can no longer be started.
    """
    items: list[tuple[str, Columns]] = []
    for rollout in rollouts:
        columns = columns_of(rollout.prompt, pool.named_columns)
        items.extend((completion.text, columns) for completion in rollout.completions)
    verdicts = iter(pool.verify(items))
    return [
        Group(rollout, tuple(next(verdicts) for _ in rollout.completions)) for rollout in rollouts
    ]


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
