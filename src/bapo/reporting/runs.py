"""Finding and reading run folders.

A run folder holds `recipe.yaml` and at least one of the files that a run writes; docs/metrics.md
lists them. A run may still be going on, or have been killed: files that are not there yet are empty
here, and a last line without its end is left out. Anything else that cannot be read is an error,
since a report must not pass over it in silence. Files are data: YAML is read safely, everything
else is JSON.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bapo.errors import RunFolderError
from bapo.reporting.text import number, visible

Record = Mapping[str, Any]
FloatArray = npt.NDArray[np.float64]

_LONGEST_NAME = 60
_SIGNS_OF_A_RUN = ("metrics.jsonl", "evaluation.jsonl", "environment.json")


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """What a run folder says, as it stands now; the ledger is read apart, since it may be long.

    Attributes:
        path: The run folder.
        recipe: The resolved recipe; empty sections where the file has none.
        recipe_text: The recipe as it is written.
        environment: Versions, hardware, seed and command; empty if missing.
        metrics: One mapping per training step, in order.
        evaluations: One mapping per evaluation, in order.
        examples: Completions kept as text.
        summary: What the run wrote at its end; None while it has not ended.
    """

    path: Path
    recipe: Record
    recipe_text: str
    environment: Record
    metrics: tuple[Record, ...]
    evaluations: tuple[Record, ...]
    examples: tuple[Record, ...]
    summary: Record | None

    @property
    def algorithm(self) -> str:
        """The preset's name, without characters that could act on a terminal or a page."""
        return visible(str(self.recipe.get("algorithm", "unnamed")))[:_LONGEST_NAME]

    @property
    def seed(self) -> str:
        """The seed, as text."""
        return visible(str(self.recipe.get("seed", "?")))

    @property
    def steps_done(self) -> int:
        """The training steps that metrics.jsonl holds."""
        return len(self.metrics)

    def setting(self, section: str, name: str) -> Any:
        """The value of `section.name` in the recipe, or None."""
        values = self.recipe.get(section)
        return values.get(name) if isinstance(values, Mapping) else None

    def column(self, name: str) -> FloatArray:
        """`(S,)` one metric over the steps; NaN where it is null or missing."""
        return np.array([number(record, name) for record in self.metrics], dtype=np.float64)

    def total(self, name: str) -> float:
        """The sum of a metric over the steps; NaN if no step has it."""
        values = self.column(name)
        return float(np.nansum(values)) if np.isfinite(values).any() else float("nan")

    def evaluations_of(self, split: str) -> tuple[Record, ...]:
        """The evaluations of one split by step; of two of the same step the later one counts."""
        by_step = {
            number(record, "step"): record
            for record in self.evaluations
            if record.get("split") == split
        }
        return tuple(by_step[step] for step in sorted(by_step))


def find_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """Reads every run folder at or under the given paths.

    Args:
        paths: Run folders, or folders that hold them at any depth, such as
            `DIR/<algorithm>/seed-<n>/`.

    Returns:
        The runs in the order of their paths, each once.

    Raises:
        RunFolderError: A path is missing, none holds a run, or a file of a run cannot be read.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise RunFolderError(
                f"There is no folder '{path}': name a run folder or a folder of them."
            )
        found = list(_run_folders(path))
        if not found:
            raise RunFolderError(
                f"There is no run folder in '{path}': one holds recipe.yaml and metrics.jsonl, "
                "as `bapo train --output RUN` writes them."
            )
        folders.update((folder.resolve(), None) for folder in found)
    if not folders:
        raise RunFolderError("No run folder was named: give at least one.")
    return [read_run(folder) for folder in folders]


def is_run_folder(path: Path) -> bool:
    """Whether `path` holds a recipe and at least one of the files that a run writes."""
    return (path / "recipe.yaml").is_file() and any(
        (path / name).is_file() for name in _SIGNS_OF_A_RUN
    )


def _run_folders(path: Path) -> Iterator[Path]:
    """The run folders at or under `path` by name; what lies inside one is not searched."""
    for folder, below, _ in os.walk(path):
        if is_run_folder(Path(folder)):
            below.clear()
            yield Path(folder)
        else:
            below.sort()


def read_run(path: Path) -> RunRecord:
    """Reads one run folder.

    Raises:
        RunFolderError: `path` is no run folder, or one of its files cannot be read.
    """
    if not is_run_folder(path):
        raise RunFolderError(
            f"'{path}' is not a run folder: one holds recipe.yaml and metrics.jsonl, "
            "as `bapo train --output RUN` writes them."
        )
    recipe_text, recipe = _read_recipe(path / "recipe.yaml")
    summary = path / "summary.json"
    environment = path / "environment.json"
    return RunRecord(
        path=path,
        recipe=recipe,
        recipe_text=recipe_text,
        environment=read_object(environment) if environment.is_file() else {},
        metrics=tuple(read_lines(path / "metrics.jsonl")),
        evaluations=tuple(read_lines(path / "evaluation.jsonl")),
        examples=tuple(read_lines(path / "examples.jsonl")),
        summary=read_object(summary) if summary.is_file() else None,
    )


def _read_recipe(path: Path) -> tuple[str, Record]:
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise RunFolderError(f"'{path}' must be a mapping of settings, but is {content!r:.80}.")
    return text, content


def read_object(path: Path) -> Record:
    """The object in a JSON file.

    Raises:
        RunFolderError: The file cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, dict):
        raise RunFolderError(f"'{path}' must hold one JSON object, but holds {content!r:.80}.")
    return content


def read_lines(path: Path) -> Iterator[Record]:
    """The objects of a JSON Lines file, one at a time; none if the file is missing.

    A last line without its line feed that is not whole is left out: the run may be writing it now.

    Raises:
        RunFolderError: The file cannot be read, or another line is not a JSON object.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as lines:
            for position, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    content = json.loads(line)
                except (ValueError, RecursionError):
                    if not line.endswith(b"\n"):
                        return
                    raise RunFolderError(
                        f"Line {position} of '{path}' is not JSON; restore the file or delete "
                        "that line."
                    ) from None
                if not isinstance(content, dict):
                    raise RunFolderError(f"Line {position} of '{path}' must be a JSON object.")
                yield content
    except RunFolderError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    reason = visible(" ".join(str(error).split()))[:200]
    return RunFolderError(f"'{path}' cannot be read: {reason}")
