"""Runs a command of bapo that kills itself, with SIGKILL, when it comes to a named point.

`forked` starts one within milliseconds, from a server that has imported everything already; the
command line is `python -m tests.killed_run POINT TIMES train RECIPE --output RUN`. POINT is `none`
or one of `POINTS`; the process dies when it gets there for the TIMES-th time, from 1. At `stuck` it
hangs instead.
"""

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import reduce
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Visit = Callable[..., None]
Wrapper = Callable[[Callable[..., Any], Visit], Callable[..., Any]]


def before(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        visit()
        return function(*args, **kwargs)

    return wrapped


def after(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        visit()
        return result

    return wrapped


def amid_buffers(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    """Dies with half of adaptation.json on disk."""

    def wrapped(folder: Path, name: str, tree: Any) -> None:
        function(folder, name, tree)
        if name == "adaptation":
            path = folder / "adaptation.json"
            visit(lambda: os.truncate(path, path.stat().st_size // 2))

    return wrapped


def amid_line(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    """Dies with half a line in metrics.jsonl."""

    def wrapped(folder: Any, name: str, items: Any) -> None:
        if name == "metrics.jsonl":
            visit(lambda: _tear(folder.path / name))
        function(folder, name, items)

    return wrapped


def stuck(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    return before(function, lambda: visit(lambda: time.sleep(600)))


def _tear(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"step": ')


def before_rename(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(path: Path, target: Path) -> Path:
        if path.name.startswith(".writing-"):
            visit()
        return function(path, target)

    return wrapped


def after_rename(function: Callable[..., Any], visit: Visit) -> Callable[..., Any]:
    def wrapped(path: Path, target: Path) -> Path:
        result = function(path, target)
        if path.name.startswith(".writing-"):
            visit()
        return result

    return wrapped


POINTS: dict[str, tuple[str, str, Wrapper]] = {
    "before-rollout": ("bapo.training.loop", "Loop._sample_fresh", before),
    "while-sampling": ("bapo.rollout.sampler", "_LiveBatch.draw", before),
    "while-verifying": ("bapo.reward.pool", "VerifierPool.collect", before),
    "after-verdicts": ("bapo.training.loop", "Loop._check_verdicts", before),
    "stuck": ("bapo.training.loop", "Loop._check_verdicts", stuck),
    "before-optimizer": ("torch.optim", "AdamW.step", before),
    "after-optimizer": ("torch.optim", "AdamW.step", after),
    "amid-line": ("bapo.training.run_folder", "RunFolder.append", amid_line),
    "before-checkpoint": ("bapo.training.checkpoints", "CheckpointStore.save", before),
    "amid-buffers": ("bapo.training.checkpoints", "write_tree", amid_buffers),
    "before-manifest": ("bapo.training.checkpoints", "write_manifest", before),
    "before-rename": ("pathlib", "Path.rename", before_rename),
    "after-rename": ("pathlib", "Path.rename", after_rename),
    "while-removing": ("shutil", "rmtree", before),
    "while-measuring": ("bapo.training.run", "evaluate", before),
    "before-summary": ("bapo.training.run", "Run._summary", before),
}


def die_at(point: str, times: int) -> None:
    """Arranges for this process to die."""
    left = [times]

    def visit(spoil: Callable[[], Any] = lambda: None) -> None:
        left[0] -= 1
        if left[0] == 0:
            spoil()
            os.kill(os.getpid(), signal.SIGKILL)

    module, name, wrapper = POINTS[point]
    *path, attribute = name.split(".")
    owner = reduce(getattr, path, importlib.import_module(module))
    setattr(owner, attribute, wrapper(getattr(owner, attribute), visit))


def main(point: str, times: str, *arguments: str) -> None:
    from bapo.cli import main as command

    if point != "none":
        die_at(point, int(times))
    sys.argv = ["bapo", *arguments]
    command()


def forked(point: str, times: int, log: Path, *arguments: str) -> BaseProcess:
    """Starts a command in a process of its own; what it says goes to a file."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["bapo.training", "bapo.cli.progress", __name__])
    process = server.Process(target=_logged, args=(log, point, times, arguments))
    process.start()
    return process


def _logged(log: Path, point: str, times: int, arguments: tuple[str, ...]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main(point, str(times), *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
