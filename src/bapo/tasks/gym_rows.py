"""Makes the problems of a reasoning-gym task, in a process of its own.

Some of its tasks go through sets of texts, whose order Python draws anew in every process, draw
from the global generators, print, or run programs of a data file. So they are made here, not in the
training process, with `PYTHONHASHSEED=0` and with the global generators seeded before each problem:
a problem then follows from the task, its options, the seed and the index alone.

One JSON request on standard input, one JSON answer on standard output:

    {"dataset", "options", "seed", "start", "stop"}
    {"rows": [{"question", "entry", "level"}, ...]}  or  {"failed": sentence, "data": true or false}
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import random
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import numpy as np

from bapo.config import nearest_name

BLOCK: Final = 512
"""Problems of one gym data set; the next block has another seed, as gym adds the index to it."""

REFUSED: Final[Mapping[str, str]] = {
    "composite": "it mixes other tasks; name one of them",
    "coin_flip": "its scorer gives the answer '0' full marks, whatever the right one is",
    "game_of_life_halting": "its scorer gives every answer full marks",
    "puzzle24": "its scorer does not look whether the given numbers were used; take countdown "
    "with its own verifier",
}
"""Tasks of reasoning-gym 0.1.25 that are not served, with the reason."""

_LONGEST_LABEL: Final = 20
_RESERVED: Final = ("seed", "size")
_RAISED: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class RefusedError(Exception):
    """One sentence: why there are no problems.

    Attributes:
        data: Whether the problems are at fault, and not the recipe.
    """

    def __init__(self, sentence: str, *, data: bool = False) -> None:
        super().__init__(sentence)
        self.data = data


def main() -> None:
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            answer: dict[str, Any] = {"rows": rows(**request)}
    except RefusedError as refusal:
        answer = {"failed": str(refusal), "data": refusal.data}
    json.dump(answer, sys.stdout)


def rows(
    dataset: str, options: Mapping[str, Any], seed: int, start: int, stop: int
) -> list[dict[str, Any]]:
    """Problems `start` to `stop - 1`; none of them only checks the name and the options.

    Raises:
        RefusedError: There is no such task, it is not served, an option is wrong, or a problem
            cannot be made or cannot be written as JSON.
    """
    # By name and not by an import, as the package comes with an extra.
    factory = importlib.import_module("reasoning_gym").factory
    names = sorted(set(factory.DATASETS) - set(REFUSED))
    if dataset in REFUSED:
        raise RefusedError(f"The gym task '{dataset}' is not served: {REFUSED[dataset]}.")
    if dataset not in names:
        raise RefusedError(f"Unknown gym task '{dataset}': {nearest_name(dataset, names)}")
    kind, config = factory.DATASETS[dataset]
    _check_options(dataset, config, options)
    made: list[dict[str, Any]] = []
    problems = None
    for index in range(start, max(stop, start + 1)):
        block, place = divmod(index, BLOCK)
        block_seed = _hashed(seed, block)
        if problems is None or place == 0:
            problems = _open(dataset, kind, config, {**options, "size": BLOCK, "seed": block_seed})
        if index < stop:
            made.append(_row(dataset, problems, place, _hashed(seed, index, "globals")))
    return made


def option_types(config: type) -> dict[str, Any]:
    """The options of a gym task that a recipe may set, with their types."""
    hints = typing.get_type_hints(config)
    fields = dataclasses.fields(cast("Any", config))
    return {one.name: hints[one.name] for one in fields if one.name not in _RESERVED}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from a recipe has the type that a gym task declares."""
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arm) for arm in arms)
    if origin is Literal:
        return value in arms
    if (origin or hint) in (list, tuple, Sequence):
        inner = arms[0] if arms else Any
        return isinstance(value, list) and all(fits(one, inner) for one in cast("list[Any]", value))
    if (origin or hint) is dict:
        return isinstance(value, dict)
    if hint in (int, float):
        known = (int,) if hint is int else (int, float)
        return isinstance(value, known) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def encode(value: Any) -> Any:
    """An entry as JSON values from which the scorer gets back exactly what it is used to.

    Tuples, and mappings whose keys are not texts, are marked; `decode` in
    `bapo.reward.verifiers.gym` takes the marks off.
    """
    if isinstance(value, tuple):
        return {"$tuple": [encode(one) for one in cast("tuple[Any, ...]", value)]}
    if isinstance(value, list):
        return [encode(one) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        if all(isinstance(key, str) for key, _ in items):
            return {key: encode(one) for key, one in items}
        return {"$pairs": [[encode(key), encode(one)] for key, one in items]}
    return value


def level_of(metadata: Mapping[str, Any]) -> str:
    """`num_disks=3 num_pegs=4`: what the problem has of what gym counts as difficulty.

    Gym writes the range that the recipe allows under `difficulty`, and the problem's own value
    beside it under the same name; ranges without a value of their own are left out.
    """
    difficulty = metadata.get("difficulty")
    if not isinstance(difficulty, Mapping):
        return f"{difficulty:g}" if isinstance(difficulty, (int, float)) else ""
    labels: list[str] = []
    for name, allowed in cast("Mapping[str, Any]", difficulty).items():
        own = metadata.get(name)
        value = own if isinstance(own, (int, str)) else allowed
        if isinstance(value, (int, str)) and len(str(value)) <= _LONGEST_LABEL:
            labels.append(f"{name}={value}")
    return " ".join(labels)


def _check_options(dataset: str, config: type, options: Mapping[str, Any]) -> None:
    known = option_types(config)
    for name, value in options.items():
        if name not in known:
            raise RefusedError(
                f"The gym task '{dataset}' has no option '{name}'; it has "
                f"{', '.join(known) or 'none'}."
            )
        if not fits(value, known[name]):
            hint = known[name]
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise RefusedError(
                f"The option '{name}' of the gym task '{dataset}' must be of type {wanted}, but is "
                f"{value!r}; its options are {', '.join(known)}."
            )


def _open(dataset: str, kind: Any, config: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(config=config(**options))
    except _RAISED as error:
        raise RefusedError(
            f"The gym task '{dataset}' refuses its options ({_in_short(error)}); correct them."
        ) from error


def _row(dataset: str, problems: Any, place: int, seed: int) -> dict[str, Any]:
    random.seed(seed)
    # Gym's own code draws from the global generators; this process belongs to it.
    np.random.seed(seed)
    try:
        entry = problems[place]
    except _RAISED as error:
        raise RefusedError(
            f"The gym task '{dataset}' could not make a problem with these options "
            f"({_in_short(error)}); change them.",
            data=True,
        ) from error
    row = {
        "question": entry["question"],
        "entry": encode({"answer": entry["answer"], "metadata": entry["metadata"]}),
        "level": level_of(entry["metadata"]),
    }
    try:
        json.dumps(row, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RefusedError(
            f"The gym task '{dataset}' cannot be served, as its problems hold what JSON cannot "
            f"({_in_short(error)}).",
            data=True,
        ) from error
    return row


def _hashed(*parts: object) -> int:
    """A number below 2**31 that follows from the parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31


def _in_short(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' if text else ''}{text}"[:300]


if __name__ == "__main__":
    main()
