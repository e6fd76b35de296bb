"""The checkpoints of a run: written whole or not at all, and trusted only byte by byte.

References: DESIGN.md, Run folder; docs/reliability.md says what is promised.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from safetensors import SafetensorError

from bapo.errors import CheckpointError
from bapo.training.durable import sync_folder
from bapo.training.manifest import Manifest, verified_manifest, write_manifest
from bapo.training.state_files import Tree, read_tree, write_tree

_PREFIX = "step-"
_WRITING = ".writing-"
_REMOVING = ".removing-"
_REJECTED = "rejected-"
_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
"""What taking back a tree of another shape raises."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose every file was found to be what its manifest says.

    Attributes:
        path: Its folder.
        manifest: What it holds.
    """

    path: Path
    manifest: Manifest

    def read(self, name: str) -> Tree:
        """One of the trees that were saved.

        Raises:
            CheckpointError: There is none of that name, or it is no tree: its manifest was made
                for it by somebody else than a run.
        """
        if f"{name}.json" not in self.manifest.files:
            raise CheckpointError(f"it has no '{name}'")
        try:
            return read_tree(self.path, name)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise CheckpointError(
                f"The checkpoint '{self.path}' has a '{name}' that no run has written; remove the "
                "checkpoint, and do not trust the folder."
            ) from error

    @contextmanager
    def used(self, name: str) -> Iterator[None]:
        """A block that uses a tree which verified, but need not be what this version writes.

        Args:
            name: The tree.

        Raises:
            CheckpointError: The tree lacks something, or has something of another type or shape.
        """
        try:
            yield
        except _MISFITS as error:
            raise CheckpointError(
                f"The checkpoint '{self.path}' is whole, but its '{name}' is not what this version "
                f"of bapo writes for this run ({type(error).__name__}: {error!s:.99}); resume with "
                "the version that environment.json names, or remove the checkpoint to go on from "
                "the one before."
            ) from error


class CheckpointStore:
    """The folder `RUN/checkpoints`, with one folder `step-000100` a checkpoint.

    Life cycle of a checkpoint: all files are written into a folder with another name and flushed,
    the manifest last; the folder gets its name by a rename, which is atomic, and is flushed too.
    Only then are checkpoints beyond the newest `keep` removed. A process killed at any moment thus
    leaves the checkpoints of before, and at most a folder that is never read and is removed by the
    next save.

    Args:
        folder: `RUN/checkpoints`; made by the first save.
        keep: Checkpoints kept, at least 1.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of the checkpoints that are there, verified or not, ascending."""
        if not self._folder.is_dir():
            return ()
        names = (path.name for path in self._folder.iterdir() if path.is_dir())
        numbers = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
        return tuple(sorted(int(number) for number in numbers if number.isdecimal()))

    def save(self, step: int, trees: Mapping[str, Tree]) -> float:
        """Writes a checkpoint, in the place of one of the same step, and removes the oldest.

        Args:
            step: Training steps done.
            trees: What it holds, by name.

        Returns:
            The seconds that it took.

        Raises:
            CheckpointError: It cannot be written; those of before are as they were.
        """
        started = perf_counter()
        temporary = self._folder / f"{_WRITING}{self._name(step)}"
        try:
            self._folder.mkdir(exist_ok=True)
            self._clear_leftovers()
            temporary.mkdir()
            for name, tree in trees.items():
                write_tree(temporary, name, tree)
            write_manifest(temporary, step, perf_counter() - started)
            sync_folder(temporary)
            self._remove(self._folder / self._name(step))
            temporary.rename(self._folder / self._name(step))
            sync_folder(self._folder)
            for old in self.steps[: -self._keep]:
                self._remove(self._folder / self._name(old))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._failure(step, error)) from error
        return perf_counter() - started

    def newest(
        self, usable: Callable[[Checkpoint], None], rejected: Callable[[str], None]
    ) -> Checkpoint | None:
        """The newest checkpoint that verifies; nothing is changed.

        Args:
            usable: Raises a `CheckpointError` where the run cannot be continued from a checkpoint.
            rejected: Told of every checkpoint passed over, in a sentence.

        Returns:
            The checkpoint, or None where none verifies.
        """
        for step in reversed(self.steps):
            path = self._folder / self._name(step)
            try:
                checkpoint = Checkpoint(path, verified_manifest(path))
                if checkpoint.manifest.step != step:
                    raise CheckpointError(f"it was made at step {checkpoint.manifest.step}")
                usable(checkpoint)
            except CheckpointError as error:
                rejected(f"the checkpoint of step {step} is not used: {error}")
            else:
                return checkpoint
        return None

    def set_aside_after(self, step: int) -> None:
        """Renames the checkpoints of steps that a resumed run is about to do again.

        They are kept for whoever wants to know what happened to them, but must not be found again.

        Args:
            step: Where the run goes on.

        Raises:
            CheckpointError: The folder cannot be written to.
        """
        try:
            for later in (one for one in self.steps if one > step):
                name = self._name(later)
                self._remove(self._folder / f"{_REJECTED}{name}")
                (self._folder / name).rename(self._folder / f"{_REJECTED}{name}")
        except OSError as error:
            raise CheckpointError(
                f"The folder '{self._folder}' cannot be written to: {error.strerror}."
            ) from error

    def _clear_leftovers(self) -> None:
        """Removes what a killed process left half written or half removed."""
        for path in self._folder.iterdir():
            if path.name.startswith((_WRITING, _REMOVING)):
                shutil.rmtree(path)

    def _remove(self, path: Path) -> None:
        """Removes a checkpoint, under another name first, so that no half of one is ever found."""
        if path.exists():
            doomed = path.with_name(f"{_REMOVING}{path.name}")
            path.rename(doomed)
            shutil.rmtree(doomed)

    def _failure(self, step: int, error: OSError | SafetensorError) -> str:
        reason = str(error) if isinstance(error, SafetensorError) else os.strerror(error.errno or 0)
        before = [one for one in self.steps if one < step]
        kept = f"that of step {before[-1]} is as it was" if before else "there is none before it"
        return (
            f"The checkpoint of step {step} cannot be written to '{self._folder}': {reason}; "
            f"{kept}. Make room or give write permission, and go on with --resume."
        )

    @staticmethod
    def _name(step: int) -> str:
        return f"{_PREFIX}{step:06d}"
