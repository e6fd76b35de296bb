"""Splits of made-up problems, disjoint by construction, and sets of different ones.

A hash of a problem's identity alone, whatever the seed and the index, says whether it belongs to
the cold start, to training or to evaluation; a row that falls into another split is drawn again.
"""

import hashlib
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol, TypeVar

import numpy as np

ATTEMPTS: Final = 20_000
_PATIENCE: Final = 500
_SPLIT_SLOTS: Final = 10


class Split(Enum):
    """The part of all problems that a row is taken from: its first and last hash slot of ten."""

    EVALUATION = (0, 1)
    WARMSTART = (2, 5)
    TRAINING = (6, 9)

    @classmethod
    def of(cls, identity: str) -> "Split":
        """The one split that the problem with this identity belongs to."""
        digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
        slot = int.from_bytes(digest, "big") % _SPLIT_SLOTS
        return next(split for split in cls if split.value[0] <= slot <= split.value[1])


class Identified(Protocol):
    """A problem with an identity."""

    @property
    def identity(self) -> str:
        """What makes it this problem and no other."""
        ...


ProblemT = TypeVar("ProblemT", bound=Identified)


def draw_row(
    draw: Callable[[np.random.Generator], ProblemT | None], seed: int, split: Split, index: int
) -> ProblemT | None:
    """Problem `index` of a split, from the seed and the index alone.

    Args:
        draw: Makes a problem, or None where the draw came to nothing.
        seed: The task's seed.
        split: Problems of other splits are drawn again.
        index: The row.

    Returns:
        The problem, or None after `ATTEMPTS` draws.
    """
    slot = list(Split).index(split)
    rng = np.random.Generator(np.random.PCG64([seed, slot, index]))
    for _ in range(ATTEMPTS):
        problem = draw(rng)
        if problem is not None and Split.of(problem.identity) is split:
            return problem
    return None


def different(row: Callable[[int], ProblemT], count: int) -> list[ProblemT]:
    """The first `count` rows that differ from those before them, or all there are.

    Rows are given up after `_PATIENCE` repetitions in a row, so that a small set of problems
    ends the search in seconds.
    """
    problems: dict[str, ProblemT] = {}
    index = repeated = 0
    while len(problems) < count and repeated < _PATIENCE:
        problem = row(index)
        index += 1
        repeated += 1
        if problem.identity not in problems:
            problems[problem.identity] = problem
            repeated = 0
    return list(problems.values())
