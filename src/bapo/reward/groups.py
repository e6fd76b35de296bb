"""From rollouts to groups: every completion gets its verdict."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bapo.config import RewardSettings
from bapo.reward.pool import VerifierPool
from bapo.reward.work import Answer, Ticket
from bapo.types import Columns, Completion, Group, Prompt, Rollout, Verdict, VerdictStatus

TOKENS = "completion_ids"
"""The name under which a verifier may ask for a completion's tokens, as TRL's may."""


class GroupVerifier:
    """Verifies rollouts, and has the workers at it while others are still being sampled.

    Life cycle: `begin` hands a rollout to the pool and returns at once; a call takes the verdicts
    of the rollouts that it is given, and hands over those of them that were not begun. Verdicts do
    not depend on what was begun. A checkpoint keeps nothing: a rollout that was begun and is never
    asked for is forgotten with the pool.

    A verifier that names the column `prompts`, as TRL's reward functions may, is given the
    prompt's content: a text, or a list of `{"role": ..., "content": ...}`. One that names
    `completion_ids` is given the tokens.
    """

    def __init__(self, pool: VerifierPool, max_new_tokens: int = 0) -> None:
        """Makes a verifier of groups.

        Args:
            pool: An open pool; its settings say what of a completion the verifier sees, in which
                form, and what its length costs.
            max_new_tokens: The limit at which completions were cut off, where the whole penalty for
                length holds; 0 means that length costs nothing.
        """
        self._pool = pool
        self._settings = pool.settings
        self._max_new_tokens = max_new_tokens
        self._under_way: dict[Rollout, Ticket] = {}

    def begin(self, rollout: Rollout) -> None:
        """Hands a rollout's completions to the workers.

        Raises:
            VerifierError: The verifier can no longer be started.
        """
        self._under_way[rollout] = self._pool.submit(self._items(rollout))

    def __call__(self, rollouts: Sequence[Rollout]) -> list[Group]:
        """Verifies every completion of every rollout.

        Args:
            rollouts: Any number of them, begun or not; group sizes may differ.

        Returns:
            One group for each rollout, in order.

        Raises:
            VerifierError: The verifier can no longer be started.
        """
        for rollout in rollouts:
            if rollout not in self._under_way:
                self.begin(rollout)
        tickets = [self._under_way.pop(rollout) for rollout in rollouts]
        return [
            self._group(rollout, self._pool.collect(ticket))
            for rollout, ticket in zip(rollouts, tickets, strict=True)
        ]

    def _items(self, rollout: Rollout) -> list[tuple[Answer, Columns]]:
        """What the workers are given of a rollout."""
        named = self._pool.named_columns
        columns = columns_of(rollout.prompt, named)
        items: list[tuple[Answer, Columns]] = []
        for completion in rollout.completions:
            text = _seen(completion.text, self._settings.answer_after)
            if text is not None:
                given = _with_tokens(columns, completion, named)
                items.append((_as_given(text, rollout.prompt, self._settings), given))
        return items

    def _group(self, rollout: Rollout, verdicts: Sequence[Verdict]) -> Group:
        settings, left = self._settings, iter(verdicts)
        found: list[Verdict] = []
        for completion in rollout.completions:
            unseen = _seen(completion.text, settings.answer_after) is None
            verdict = _unanswered(settings) if unseen else next(left)
            found.append(_for_length(verdict, completion, settings, self._max_new_tokens))
        return Group(rollout, tuple(found))


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
