"""Verifier processes, counted in /proc and not by the pool that starts them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from bapo.reward.process import MARKER_VARIABLE
from bapo.selftest.results import NotPossibleError


def living_workers(parent: int | None = None) -> list[int]:
    """Living processes that a pool of `parent` started, or their descendants did.

    Raises:
        NotPossibleError: There is no /proc.
    """
    needle = f"{MARKER_VARIABLE}={parent or os.getpid()}-".encode()
    if not Path("/proc/self/environ").exists():
        raise NotPossibleError("processes cannot be counted where there is no /proc")
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            content = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        if needle in content:
            found.append(int(name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
