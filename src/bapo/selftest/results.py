"""What a check is, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bapo.selftest.bench import Bench


class Outcome(StrEnum):
    """What became of a check."""

    HELD = "held"
    FAILED = "failed"
    NOT_POSSIBLE = "not possible here"


class NotHeldError(Exception):
    """What was promised did not hold; the message says what was found instead."""


class NotPossibleError(Exception):
    """This machine does not allow what a check has to do; the message says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table.

    Attributes:
        area: What it belongs to, and what holds for all of it.
        name: What happens to the run or the verifier; unique in its area.
        tried: What is done and what must hold, in a few words.
        carry_out: Does it; what it returns is said beside the outcome. Raises `NotHeldError` or
            `NotPossibleError`.
    """

    area: str
    name: str
    tried: str
    carry_out: "Callable[[Bench], str]"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check.

    Attributes:
        check: The check.
        outcome: Whether it held.
        detail: What was found; empty where there is nothing to say.
        seconds: How long it took.
    """

    check: Check
    outcome: Outcome
    detail: str
    seconds: float


def require(condition: bool, found: str) -> None:
    """Raises a `NotHeldError` that says what was found, unless the condition is true."""
    if not condition:
        raise NotHeldError(found)


def carry_out(check: Check, bench: "Bench") -> Result:
    """Carries a check out; whatever goes wrong in it is a result and ends nothing.

    The check tries parts that may be broken in any way, so there is no kind of error that it
    could not meet.
    """
    started = perf_counter()
    try:
        outcome, detail = Outcome.HELD, check.carry_out(bench)
    except NotHeldError as error:
        outcome, detail = Outcome.FAILED, str(error)
    except NotPossibleError as error:
        outcome, detail = Outcome.NOT_POSSIBLE, str(error)
    except Exception as error:
        outcome, detail = Outcome.FAILED, f"{type(error).__name__}: {error}"
    return Result(check, outcome, detail, perf_counter() - started)
