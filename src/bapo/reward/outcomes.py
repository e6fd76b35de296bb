"""Judges what a verifier returned, strictly: a broken verifier never counts as a wrong answer.

Runs in the worker; standard library only.
"""

import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, cast

_DETAIL_CHARACTERS = 500
_STATUSES = ("ok", "invalid", "timeout", "error")
_VERDICT_FIELDS = frozenset({"correct", "score", "status", "milliseconds", "detail"})
_LARGEST_SCORE = 3.4e38
"""Scores are learned from in float32, which ends there."""


class Outcome(NamedTuple):
    """A verdict without its time.

    Attributes:
        status: A value of `bapo.types.VerdictStatus`.
        correct: Whether the answer is right; None where a score decides.
        score: Finite.
        detail: Why the status is not ok, or what the verifier says of an answer; may be empty.
        out_of_memory: Whether the process should be replaced, as its memory may be full for good.
    """

    status: str
    correct: bool | None
    score: float
    detail: str
    out_of_memory: bool = False


def invalid(detail: str) -> Outcome:
    """The verifier ran, but what it returned is not a verdict."""
    return Outcome("invalid", False, 0.0, detail[:_DETAIL_CHARACTERS])


def error(detail: str, *, out_of_memory: bool = False) -> Outcome:
    """The verifier did not get so far as to return anything."""
    return Outcome("error", False, 0.0, detail[:_DETAIL_CHARACTERS], out_of_memory)


def outcome_of(returned: Any) -> Outcome:
    """The outcome of one completion, from what the verifier returned for a list of one.

    Args:
        returned: Should be a list (a tuple, an array) of one bool, finite number, `Verdict`, or
            mapping with `correct` and optionally `score`, `status`, `detail`.
    """
    results = _plain(returned)
    if isinstance(results, (str, bytes)) or not isinstance(results, Sequence):
        return invalid(
            f"The verifier returned {_shown(returned)} where a list with one result for each "
            "completion is needed."
        )
    items = cast("Sequence[Any]", results)
    if len(items) != 1:
        return invalid(f"The verifier returned {len(items)} results for 1 completion.")
    return _outcome_of_item(items[0])


def _outcome_of_item(item: Any) -> Outcome:
    if item is None:
        return invalid("The verifier returned None for this completion.")
    if isinstance(item, Mapping):
        return _outcome_of_mapping(cast("Mapping[Any, Any]", item))
    # The class is compared without being imported: bapo.types brings NumPy along, and a verifier
    # that returns a Verdict has imported it already.
    verdict_class = getattr(sys.modules.get("bapo.types"), "Verdict", None)
    if verdict_class is not None and isinstance(item, verdict_class):
        return _outcome_of_mapping({name: getattr(item, name) for name in _VERDICT_FIELDS})
    value = _plain(item)
    if isinstance(value, bool):
        return Outcome("ok", value, float(value), "")
    score = _finite(value)
    if score is None:
        return invalid(f"The verifier returned {_shown(item)}, which is not a finite number.")
    return Outcome("ok", None, score, "")


def _outcome_of_mapping(item: Mapping[Any, Any]) -> Outcome:
    """The outcome that a `Verdict`, or a mapping like one, states; its time is measured here."""
    unknown = [name for name in item if name not in _VERDICT_FIELDS]
    if unknown:
        return invalid(f"The verifier returned a verdict with an unknown field {unknown[0]!r}.")
    correct = _plain(item.get("correct"))
    if not isinstance(correct, bool):
        return invalid(
            f"The verifier returned a verdict whose 'correct' is {_shown(correct)}, not a bool."
        )
    score = _finite(_plain(item.get("score", correct)))
    if score is None:
        return invalid(
            f"The verifier returned a verdict whose 'score' is {_shown(item.get('score'))}, which "
            "is not a finite number."
        )
    status = str(item.get("status", "ok"))
    if status not in _STATUSES:
        return invalid(f"The verifier returned a verdict with an unknown status {status!r}.")
    if status == "ok":
        return Outcome("ok", correct, score, str(item.get("detail", ""))[:_DETAIL_CHARACTERS])
    detail = str(item.get("detail", "")) or f"The verifier itself said '{status}'."
    return Outcome(status, False, 0.0, detail[:_DETAIL_CHARACTERS])


def _plain(value: Any) -> Any:
    """Arrays, tensors and their scalars as Python values; anything else as it is."""
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) else value


def _finite(value: Any) -> float | None:
    if not isinstance(value, Real):
        return None
    try:
        score = float(value)
    except OverflowError:
        return None
    return score if abs(score) <= _LARGEST_SCORE else None  # NaN is not


def _shown(value: Any) -> str:
    """A value in a message: its type, after the value itself where that is short."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, (str, int)) and sys.getsizeof(value) < 200:
        return f"{value!r} of type {type(value).__name__}"
    return f"a value of type {type(value).__name__}"
