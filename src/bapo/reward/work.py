"""Completions on their way to a verdict: what waits, what is in doubt, what is settled."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bapo.reward.latency import LatencyLog
from bapo.types import Columns, Verdict, VerdictStatus

Answer = str | list[dict[str, str]]
"""A completion as a verifier is given it: a text, or messages of a chat."""

_CHUNK_SECONDS: Final = 0.02
_CHUNK_ITEMS: Final = 64
_MEAN_WEIGHT: Final = 0.05


@dataclass(slots=True, eq=False)
class Ticket:
    """A submission; `VerifierPool.collect` takes it back.

    Attributes:
        verdicts: One place for each item; None until its verdict is known.
        missing: How many are None.
    """

    verdicts: list[Verdict | None]
    missing: int


@dataclass(slots=True, eq=False)
class Item:
    """One completion.

    Attributes:
        number: Unique in its queue.
        ticket: The submission that it belongs to.
        place: Its place in the submission.
        completion: The text, for reports; None where only the columns are to be checked.
        body: `[number, completion, columns]` in JSON.
        ran_before: Whether a worker broke under it before.
    """

    number: int
    ticket: Ticket
    place: int
    completion: str | None
    body: bytes = b""
    ran_before: bool = False


class WorkQueue:
    """The items of all submissions, in the order in which they are to be run.

    Args:
        log: Hears of every verdict.
    """

    def __init__(self, log: LatencyLog) -> None:
        self._log = log
        self._pending: deque[Item] = deque()
        self._doubtful: deque[Item] = deque()
        self._next_number = 0
        self._mean_seconds = _CHUNK_SECONDS / 8

    @property
    def has_pending(self) -> bool:
        """Whether items wait that any worker may run."""
        return bool(self._pending)

    @property
    def has_doubtful(self) -> bool:
        """Whether items wait that only a fresh worker may run, alone."""
        return bool(self._doubtful)

    def submit(self, items: Sequence[tuple[Answer | None, Columns]]) -> Ticket:
        """Takes items in; one whose columns are not JSON values is `error` at once."""
        ticket = Ticket([None] * len(items), len(items))
        for place, (completion, columns) in enumerate(items):
            item = Item(self._next_number, ticket, place, _text_of(completion))
            self._next_number += 1
            try:
                body = json.dumps((item.number, completion, dict(columns)), separators=(",", ":"))
            except (TypeError, ValueError, RecursionError) as error:
                detail = f"The prompt's columns are not JSON values: {error}."
                self.settle(item, Verdict(False, 0.0, VerdictStatus.ERROR, 0.0, detail))
                continue
            item.body = body.encode("ascii")
            self._pending.append(item)
        return ticket

    def next_chunk(self, workers: int) -> list[Item]:
        """Work for 20 ms by the mean so far, but only a fair share of what is left.

        Large enough that the pool's own latency is nothing, small enough that no worker sits on
        many slow items while others are idle.

        Args:
            workers: How many share the work.
        """
        share = len(self._pending) // (2 * workers)
        count = max(1, min(_CHUNK_ITEMS, share, int(_CHUNK_SECONDS / self._mean_seconds)))
        return [self._pending.popleft() for _ in range(min(count, len(self._pending)))]

    def next_doubtful(self) -> list[Item]:
        """The next item in doubt, as a chunk of its own."""
        return [self._doubtful.popleft()]

    def put_back(self, items: Sequence[Item]) -> None:
        """Takes back items of a chunk that were not run, to be run next."""
        self._pending.extendleft(reversed(items))

    def answer(self, item: Item, verdict: Verdict) -> None:
        """Settles an item that a worker answered, and learns how long items take."""
        seconds = max(verdict.milliseconds / 1000.0, 1e-6)
        self._mean_seconds += _MEAN_WEIGHT * (seconds - self._mean_seconds)
        self.settle(item, verdict)

    def blame(self, item: Item, verdict: Verdict, *, worker_was_fresh: bool) -> None:
        """Settles an item under which a worker broke, or has it run again where that is unfair."""
        if worker_was_fresh or item.ran_before:
            self.settle(item, verdict)
        else:
            item.ran_before = True
            self._doubtful.append(item)

    def settle(self, item: Item, verdict: Verdict) -> None:
        """Writes the final verdict down."""
        if item.completion is not None:
            self._log.add(verdict, item.completion)
        item.ticket.verdicts[item.place] = verdict
        item.ticket.missing -= 1

    def clear(self) -> None:
        """Forgets everything that waits."""
        self._pending.clear()
        self._doubtful.clear()


def _text_of(answer: Answer | None) -> str | None:
    if isinstance(answer, list):
        return "\n".join(turn["content"] for turn in answer)
    return answer
