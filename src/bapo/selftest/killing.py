"""Processes that get a signal when they come to a named point of a run."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Command = Callable[[], None]
"""The command line: reads `sys.argv`. It can be pickled: a function of a module."""

Visit = Callable[..., None]
Wrapper = Callable[[Callable[..., Any], Visit], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Trap:
    """What happens to a process, and where.

    Attributes:
        point: One of `POINTS`.
        times: At which visit of the point, from 1.
        number: The signal that the process gets there.
    """

    point: str
    times: int
    number: int = signal.SIGKILL


def _before(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        visit()
        return function(*args, **kwargs)

    return wrapped


def _after(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        visit()
        return result

    return wrapped


def _amid_buffers(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    """Half of adaptation.json is on disk."""

    def wrapped(folder: Path, name: str, tree: Any) -> None:
        function(folder, name, tree)
        if name == "adaptation":
            path = folder / "adaptation.json"
            visit(lambda: os.truncate(path, path.stat().st_size // 2))

    return wrapped


def _amid_line(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    """Half a line is in metrics.jsonl."""

    def wrapped(folder: Any, name: str, items: Any) -> None:
        if name == "metrics.jsonl":
            visit(lambda: _tear(folder.path / name))
        function(folder, name, items)

    return wrapped


def _after_line(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(folder: Any, name: str, items: Any) -> None:
        function(folder, name, items)
        if name == "metrics.jsonl":
            visit()

    return wrapped


def _stuck(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    return _before(function, lambda: visit(lambda: time.sleep(600)))


def _tear(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": ')


def _before_rename(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(path: Path, target: Path) -> Path:
        if path.name.startswith(".writing-"):
            visit()
        return function(path, target)

    return wrapped


def _after_rename(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(path: Path, target: Path) -> Path:
        result = function(path, target)
        if path.name.startswith(".writing-"):
            visit()
        return result

    return wrapped


POINTS: dict[str, tuple[str, str, Wrapper]] = {
    "before-rollout": ("bapo.training.loop", "Loop._sample_groups", _before),
    "while-sampling": ("bapo.rollout.live", "LiveBatch.record", _before),
    "while-verifying": ("bapo.reward.pool", "VerifierPool.collect", _before),
    "after-verdicts": ("bapo.training.loop", "Loop._too_many_lost", _before),
    "stuck": ("bapo.training.loop", "Loop._too_many_lost", _stuck),
    "before-optimizer": ("torch.optim", "AdamW.step", _before),
    "after-optimizer": ("torch.optim", "AdamW.step", _after),
    "amid-line": ("bapo.training.run_folder", "RunFolder.append", _amid_line),
    "after-step": ("bapo.training.run_folder", "RunFolder.append", _after_line),
    "before-checkpoint": ("bapo.training.checkpoints", "CheckpointStore.save", _before),
    "amid-buffers": ("bapo.training.checkpoints", "write_tree", _amid_buffers),
    "before-manifest": ("bapo.training.checkpoints", "write_manifest", _before),
    "before-rename": ("pathlib", "Path.rename", _before_rename),
    "after-rename": ("pathlib", "Path.rename", _after_rename),
    "while-removing": ("shutil", "rmtree", _before),
    "while-measuring": ("bapo.training.run", "evaluate", _before),
    "before-summary": ("bapo.training.run", "Run._summary", _before),
}


def arrange(point: str, times: int, deed: Callable[[], None]) -> None:
    """Has something done in this process when it comes to a point for the given time.

    Args:
        point: One of `POINTS`.
        times: From 1.
        deed: What is done.
    """
    left = times

    def visit(spoil: Callable[[], Any] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            spoil()
            deed()

    module, name, wrapper = POINTS[point]
    *path, attribute = name.split(".")
    owner = reduce(getattr, path, importlib.import_module(module))
    setattr(owner, attribute, wrapper(getattr(owner, attribute), visit))


def spring(trap: Trap) -> None:
    """Arranges for this process to get its signal."""
    arrange(trap.point, trap.times, lambda: os.kill(os.getpid(), trap.number))


def forked(
    command: Command, log: Path, arguments: Sequence[str], trap: Trap | None = None
) -> BaseProcess:
    """Starts a command line in a process of its own, within milliseconds.

    It is forked from a server that has imported everything already and does nothing else, so that
    nothing of this process is in it.

    Args:
        command: The command line.
        log: Gets what it says, at its end.
        arguments: What follows `bapo`.
        trap: What happens to it.
    """
    return forked_call(log, command.__module__, (_run_command, command, tuple(arguments), trap))


def forked_call(log: Path, module: str, call: tuple[Any, ...]) -> BaseProcess:
    """Starts a function with its arguments in a process like those of `forked`.

    Args:
        log: Gets what it says, at its end.
        module: Imported by the server beforehand, if it has not been started yet.
        call: The function, a module's, and its arguments.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["bapo.training", module, __name__])
    process = server.Process(target=_logged, args=(log, *call), daemon=True)
    process.start()
    return process


def _logged(log: Path, function: Callable[..., None], *args: Any) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    function(*args)


def _run_command(command: Command, arguments: tuple[str, ...], trap: Trap | None) -> None:
    if trap is not None:
        spring(trap)
    sys.argv = ["bapo", *arguments]
    command()
