"""The files of a run: what DESIGN calls the run folder, written as the run goes."""

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bapo.config import Recipe, program, write_recipe
from bapo.errors import CheckpointError, RunFolderError
from bapo.training.durable import replace_file, sync_file
from bapo.training.lock import LOCK, FolderLock

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.jsonl"
EXAMPLES = "examples.jsonl"
LEDGER = "ledger.jsonl"
QUARANTINE = "quarantine.jsonl"
ROWS = "rows.jsonl"
VERIFIER = "verifier.json"
SUMMARY = "summary.json"
CHECKPOINTS = "checkpoints"
MODEL = "model"

GROWING = (METRICS, EVALUATION, EXAMPLES, LEDGER, QUARANTINE)
"""The files that lines are added to."""


class RunFolder:
    """The folder of one run; every line is on its way to disk before the next step begins.

    Life cycle: `create` or `reopen`, either of which takes the folder's lock; `close` lets it go.
    Files that are not added to are replaced whole. A checkpoint keeps the sizes of the others.

    Args:
        path: The folder, which is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FolderLock(path)

    @classmethod
    def create(cls, path: Path, recipe: Recipe, device: torch.device, decoder: str) -> "RunFolder":
        """Makes the folder and writes recipe.yaml and environment.json.

        Args:
            path: A folder that does not exist yet or is empty.
            recipe: The resolved recipe.
            device: Where the policy is.
            decoder: What runs token steps.

        Raises:
            RunFolderError: The folder is not empty, is in use, or cannot be written to.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"The folder '{path}' cannot be made: {error.strerror}.") from None
        check_empty(path)
        folder = cls(path)
        with ExitStack() as on_failure:
            on_failure.callback(folder.close)
            check_empty(path)  # again, now that no other run can write to it
            folder.write_recipe(recipe)
            folder.write_json(ENVIRONMENT, _environment(recipe, device, decoder))
            on_failure.pop_all()
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Takes over the folder of a run that has ended or was ended.

        Raises:
            RunFolderError: There is no run, it is still going on, or it cannot be written to.
        """
        if not (path / RECIPE).is_file():
            raise RunFolderError(
                f"There is no run in '{path}' that could be resumed; start it without --resume."
            )
        return cls(path)

    @property
    def resume_command(self) -> str:
        """What continues this run, from the recipe in its own folder."""
        path = shlex.quote(str(self.path))
        recipe = shlex.quote(str(self.path / RECIPE))
        return f"{program()} train {recipe} --output {path} --resume"

    @property
    def finished_steps(self) -> int | None:
        """The steps of a finished run; None while it has not ended.

        Raises:
            RunFolderError: summary.json is not what a run writes.
        """
        path = self.path / SUMMARY
        if not path.is_file():
            return None
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"'{path}' cannot be read: {error}.") from None

    def close(self) -> None:
        """Lets other processes use the folder; safe to call twice."""
        self._lock.release()

    def append(self, name: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Adds one JSON object a line to a file of the folder.

        Raises:
            RunFolderError: The file cannot be written.
        """
        lines = _json_lines(items)
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            raise self._unwritable(name, error) from None

    def lines(self, name: str, position: int) -> Iterator[Any]:
        """The objects in the first bytes of a file that lines are added to.

        Args:
            name: The file.
            position: Bytes to read, up to the end of a line.

        Raises:
            RunFolderError: The file cannot be read, or holds something else than JSON.
        """
        try:
            content = (self.path / name).read_bytes() if position else b""
            yield from map(json.loads, content[:position].splitlines())
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"'{self.path / name}' cannot be read: {error}.") from None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the folder whole.

        Raises:
            RunFolderError: The file cannot be written.
        """
        text = json.dumps(dict(content), indent=2, allow_nan=False) + "\n"
        self._replace(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_lines(self, name: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Writes a file of one JSON object a line whole; see `write_json`."""
        text = _json_lines(items)
        self._replace(name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes recipe.yaml whole, every default written out; see `write_json`."""
        self._replace(RECIPE, lambda path: write_recipe(recipe, path))

    def positions(self) -> dict[str, int]:
        """The sizes of the files that lines are added to, once all of it is on disk."""
        return {name: self._flushed_size(self.path / name) for name in GROWING}

    def check_positions(self, positions: Mapping[str, int]) -> None:
        """Makes sure that the files can be cut back to what they were.

        Raises:
            CheckpointError: A file is shorter than it was, or was changed there.
        """
        for name in GROWING:
            path, position = self.path / name, positions[name]
            if not isinstance(position, int) or position < 0:
                raise CheckpointError(f"its place in {name} is {position!r:.20}")
            size = path.stat().st_size if path.is_file() else 0
            if size < position:
                raise CheckpointError(f"{name} lost lines: {size} of {position} bytes are left")
            if position and not _ends_line(path, position):
                raise CheckpointError(f"{name} was changed after it was made")

    def cut_back(self, positions: Mapping[str, int]) -> None:
        """Takes off what was added after `positions` was called, a torn last line among it.

        Raises:
            RunFolderError: A file cannot be written.
        """
        for name in GROWING:
            path = self.path / name
            try:
                if path.is_file():
                    os.truncate(path, positions[name])
                    sync_file(path)
            except OSError as error:
                raise self._unwritable(name, error) from None

    def note_resumption(
        self, recipe: Recipe, device: torch.device, decoder: str, step: int
    ) -> list[str]:
        """Adds to environment.json that the run goes on, where and with what.

        Returns:
            Versions and hardware that are not what they were at the start, in words.

        Raises:
            RunFolderError: The file cannot be read or written.
        """
        now = _environment(recipe, device, decoder)
        try:
            start: dict[str, Any] = json.loads((self.path / ENVIRONMENT).read_text("utf-8"))
            past = [*start.get("resumed", []), {"step": step, **now}]
            kept = ("bapo", "python", "torch", "transformers", "device", "threads", "decoder")
            changes = [
                f"{name}: {start.get(name)} -> {now[name]}"
                for name in kept
                if start.get(name) != now[name]
            ]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            path = self.path / ENVIRONMENT
            raise RunFolderError(f"'{path}' cannot be read: {error}.") from None
        self.write_json(ENVIRONMENT, {**start, "resumed": past})
        return changes

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        try:
            replace_file(self.path / name, write)
        except OSError as error:
            raise self._unwritable(name, error) from None

    def _unwritable(self, name: str, error: OSError) -> RunFolderError:
        return RunFolderError(f"'{self.path / name}' cannot be written: {error.strerror or error}.")

    @staticmethod
    def _flushed_size(path: Path) -> int:
        if not path.is_file():
            return 0
        sync_file(path)
        return path.stat().st_size


def check_empty(path: Path) -> None:
    """Makes sure that a folder, which need not be there, holds nothing that a run could spoil.

    Raises:
        RunFolderError: It is not empty, is a file, or cannot be looked into.
    """
    try:
        taken = path.exists() and any(item.name != LOCK for item in path.iterdir())
    except OSError as error:
        raise RunFolderError(f"The folder '{path}' cannot be read: {error.strerror}.") from None
    if taken:
        raise RunFolderError(
            f"The folder '{path}' is not empty; go on with the run that is in it with --resume, "
            "name another folder with --output, or remove it."
        )


def _json_lines(items: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(item), allow_nan=False) + "\n" for item in items)


def _ends_line(path: Path, position: int) -> bool:
    with path.open("rb") as file:
        file.seek(position - 1)
        return file.read(1) == b"\n"


def _environment(recipe: Recipe, device: torch.device, decoder: str) -> dict[str, Any]:
    """Versions, hardware, seed and command."""
    return {
        "bapo": version("bapo"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "decoder": decoder,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": recipe.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
