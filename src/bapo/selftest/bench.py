"""Where the checks work: a folder, the ingredients of tiny runs, and runs in real processes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path

from bapo.selftest.ingredients import make_ingredients
from bapo.selftest.killing import Command, Trap, forked

PATIENCE_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that ended it.
        said: All that it said, in one line.
    """

    code: int | None
    said: str

    @property
    def last(self) -> str:
        """The end of what it said."""
        return self.said[-300:]


class Bench:
    """Runs `bapo train` on ingredients of its own, each time in a process of its own.

    Args:
        folder: Where everything is written; it is there and empty.
        command: The command line that is tried, `bapo.cli.main`.
    """

    def __init__(self, folder: Path, command: Command) -> None:
        self.folder = folder
        self.command = command
        self._numbers = itertools.count(1)
        self._finished: dict[str, Path] = {}

    @cached_property
    def ingredients(self) -> Path:
        """The folder with model, data, verifier and recipe.yaml."""
        folder = self.folder / "ingredients"
        folder.mkdir()
        make_ingredients(folder)
        return folder

    def new_folder(self, name: str = "run") -> Path:
        """A path that is not there yet."""
        return self.folder / f"{next(self._numbers):03d}-{name}"

    def arguments(self, run: Path, *overrides: str, resume: bool = False) -> list[str]:
        """What follows `bapo` to train, or to go on with, a run."""
        recipe = str(self.ingredients / "recipe.yaml")
        return ["train", recipe, *overrides, "--output", str(run), *["--resume"] * resume]

    def start(
        self, run: Path, *overrides: str, resume: bool = False, trap: Trap | None = None
    ) -> BaseProcess:
        """Starts a run, or goes on with one, in a process of its own."""
        return forked(
            self.command, log_of(run), self.arguments(run, *overrides, resume=resume), trap
        )

    def train(
        self, run: Path, *overrides: str, resume: bool = False, trap: Trap | None = None
    ) -> Ending:
        """Starts a run, or goes on with one, and waits for its end."""
        return end_of(self.start(run, *overrides, resume=resume, trap=trap), log_of(run))

    def finished(self, *overrides: str) -> Path:
        """The run with these overrides that was never ended; made when it is first asked for.

        Raises:
            RuntimeError: It cannot be made.
        """
        key = " ".join(overrides)
        if key not in self._finished:
            run = self.new_folder("never-ended")
            self.keep_finished(run, self.train(run, *overrides), overrides)
        return self._finished[key]

    def keep_finished(self, run: Path, ending: Ending, overrides: Sequence[str]) -> None:
        """Takes a run as the one that `finished` gives.

        Raises:
            RuntimeError: It did not end well.
        """
        if ending.code != 0:
            raise RuntimeError(f"the run that nothing happens to ends with {ending.last}")
        self._finished[" ".join(overrides)] = run


def log_of(run: Path) -> Path:
    """The file with what the processes of a run have said."""
    return run.with_name(f"{run.name}.log")


def end_of(process: BaseProcess, log: Path) -> Ending:
    """Waits for the end of a process; one that does not come to an end is killed."""
    process.join(PATIENCE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return Ending(None, f"nothing: it was still running after {PATIENCE_SECONDS:g} seconds")
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return Ending(process.exitcode, " ".join(said.split()))
