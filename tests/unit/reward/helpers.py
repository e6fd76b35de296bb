"""Pools for tests, and a count of their processes that asks the kernel and not the pool."""

import os
import time
from pathlib import Path

from bapo.config import RewardSettings
from bapo.reward import VerifierPool

MISBEHAVING = f"{Path(__file__).parent / 'misbehaving.py'}:misbehave"
LIMIT_SECONDS = 0.4


def make_pool(verifier=MISBEHAVING, *, start_seconds=60.0, **changes):
    values = {"timeout_seconds": LIMIT_SECONDS, "workers": 2, "memory_megabytes": 512, **changes}
    return VerifierPool(verifier, RewardSettings(**values), start_seconds=start_seconds)


def write_verifier(folder, source):
    """A file with the source, named as a verifier whose function is `verify`."""
    path = folder / "verifier.py"
    path.write_text(source)
    return f"{path}:verify"


def verify_texts(pool, *texts):
    return pool.verify([(text, {}) for text in texts])


def living_workers(parent=None):
    """Living processes that a pool of `parent` started, or their descendants did."""
    needle = f"BAPO_VERIFIER_WORKER={parent or os.getpid()}-".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if needle in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds=5.0):
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def nothing_else_lives(pool):
    """Whether the pool's workers are all that lives; one just started may not show at once."""
    return wait_until(lambda: sorted(living_workers()) == sorted(pool.worker_pids))
