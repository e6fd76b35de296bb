"""How long verifiers take: counts by status, percentiles, the slowest samples."""

import heapq
import math
from collections import Counter
from dataclasses import dataclass

from bapo.types import Verdict, VerdictStatus

_BINS_PER_DECADE = 40
_SMALLEST_MILLISECONDS = 1e-3
_EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True, order=True)
class SlowSample:
    """A completion that took the verifier long.

    Attributes:
        milliseconds: Wall-clock time in the verifier.
        status: What became of it.
        completion: Its first 200 characters.
    """

    milliseconds: float
    status: VerdictStatus
    completion: str


class LatencyLog:
    """Counts and latencies of all verdicts of a pool's life, in bounded memory.

    Latencies are counted in bins of 6 % width, so a percentile is right to 3 %; the slowest
    samples are kept as they are. A checkpoint keeps nothing of it.

    Args:
        slowest: Samples kept.
    """

    def __init__(self, slowest: int = 10) -> None:
        self._capacity = slowest
        self._statuses: Counter[VerdictStatus] = Counter()
        self._bins: Counter[int] = Counter()
        self._slowest: list[SlowSample] = []

    def add(self, verdict: Verdict, completion: str) -> None:
        """Counts one verdict."""
        self._statuses[verdict.status] += 1
        milliseconds = max(verdict.milliseconds, _SMALLEST_MILLISECONDS)
        self._bins[round(math.log10(milliseconds) * _BINS_PER_DECADE)] += 1
        full = len(self._slowest) == self._capacity
        if full and verdict.milliseconds <= self._slowest[0].milliseconds:
            return
        sample = SlowSample(verdict.milliseconds, verdict.status, completion[:_EXCERPT_CHARACTERS])
        (heapq.heapreplace if full else heapq.heappush)(self._slowest, sample)

    def slowest(self) -> tuple[SlowSample, ...]:
        """The slowest samples, slowest first."""
        return tuple(sorted(self._slowest, reverse=True))

    def percentile(self, share: float) -> float | None:
        """The latency that `share` of all verdicts do not exceed, in milliseconds.

        Args:
            share: In (0, 1].

        Returns:
            The middle of its bin, or None before the first verdict.
        """
        total = sum(self._bins.values())
        seen = 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= share * total:
                return 10.0 ** (place / _BINS_PER_DECADE)
        return None

    def metrics(self) -> dict[str, int | float | None]:
        """Counts by status and latency percentiles."""
        counts: dict[str, int | float | None] = {
            f"verdicts_{status.value}": self._statuses[status] for status in VerdictStatus
        }
        for percent in (50, 95, 99):
            counts[f"verifier_milliseconds_p{percent}"] = self.percentile(percent / 100)
        return counts
