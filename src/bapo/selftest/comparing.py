"""Two runs, compared bit for bit: everything in them but what a clock has said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bapo.training.run_folder import (
    CHECKPOINTS,
    EVALUATION,
    EXAMPLES,
    LEDGER,
    METRICS,
    QUARANTINE,
    ROWS,
    SUMMARY,
)
from bapo.training.state_files import read_tree

WEIGHTS = "model/model.safetensors"
_ADAPTER = "model/adapter_model.safetensors"
_EXACT = (LEDGER, EXAMPLES, ROWS)
_TIMED = (METRICS, EVALUATION, QUARANTINE)
_CLOCKED = ("seconds", "milliseconds", "peak_memory")
_TREES = ("model", "optimizer", "behavior", "adaptation", "generators", "run")


def run_difference(run: Path, expected: Path, steps: int) -> str | None:
    """The first difference between two finished runs, in words; None where they are the same.

    Compared are the ledger, examples, rows and verdicts set aside, final weights, metrics and
    evaluations, the summary, and all that is in the last checkpoint: weights, optimizer, behavior
    policy, both buffers, generators, position in the data, totals.

    Args:
        run: A run folder.
        expected: Another.
        steps: Of both; there is a checkpoint of this step.
    """
    for name in (*_EXACT, _weights_of(expected)):
        if not (run / name).is_file():
            return f"{name} is missing"
        if (run / name).read_bytes() != (expected / name).read_bytes():
            return f"{name} differs"
    for name in _TIMED:
        found = tree_difference(without_seconds(run / name), without_seconds(expected / name), name)
        if found:
            return found
    one, other = (json.loads((path / SUMMARY).read_text("utf-8")) for path in (run, expected))
    found = tree_difference(one | {"seconds": 0}, other | {"seconds": 0}, SUMMARY)
    return found or tree_difference(trees_of(run, steps), trees_of(expected, steps), CHECKPOINTS)


def _weights_of(run: Path) -> str:
    """The file of a finished run with what was trained: all weights, or those of an adapter."""
    return _ADAPTER if (run / _ADAPTER).is_file() else WEIGHTS


def trees_of(run: Path, step: int) -> dict[str, Any]:
    """Everything in a checkpoint but what a clock has said or what depends on it."""
    folder = run / CHECKPOINTS / f"step-{step:06d}"
    trees: dict[str, Any] = {name: read_tree(folder, name) for name in _TREES}
    del trees["run"]["totals"]["seconds"]
    del trees["run"]["positions"]
    del trees["adaptation"]["reuse_buffer"]["groups"]["milliseconds"]
    return trees


def without_seconds(path: Path) -> list[dict[str, Any]]:
    """The lines of a file without the keys that hold time."""
    return [
        {key: value for key, value in line.items() if not key.startswith(_CLOCKED)}
        for line in json_lines(path)
    ]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that has one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tree_difference(left: Any, right: Any, where: str) -> str | None:
    """The first place where two trees differ in shape, type or a bit; None where they do not.

    Args:
        left: Dictionaries, lists, tuples, plain values, arrays and tensors.
        right: Likewise.
        where: The name of the tree.
    """
    if type(left) is not type(right):
        return f"{where}: {type(left).__name__} against {type(right).__name__}"
    if isinstance(left, torch.Tensor):
        left, right = left.numpy(force=True), right.numpy(force=True)
    if isinstance(left, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape:
            return f"{where}: {left.dtype}{left.shape} against {right.dtype}{right.shape}"
        return None if left.tobytes() == right.tobytes() else f"{where} differs"
    if isinstance(left, dict):
        if list(left) != list(right):
            return f"{where}: the names {list(left)} against {list(right)}"
        pairs = [(key, left[key], right[key]) for key in left]
    elif isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return f"{where}: {len(left)} items against {len(right)}"
        pairs = [(number, *pair) for number, pair in enumerate(zip(left, right, strict=True))]
    else:
        return None if left == right else f"{where}: {left!r} against {right!r}"
    for key, one, other in pairs:
        if found := tree_difference(one, other, f"{where}/{key}"):
            return found
    return None
