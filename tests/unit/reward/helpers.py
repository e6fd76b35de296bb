"""Pools for tests; their processes are counted by asking the kernel and not the pool."""

from pathlib import Path

from bapo.config import RewardSettings
from bapo.reward import VerifierPool
from bapo.selftest.processes import living_workers, wait_until

__all__ = [
    "LIMIT_SECONDS",
    "MISBEHAVING",
    "living_workers",
    "make_pool",
    "nothing_else_lives",
    "verify_texts",
    "wait_until",
    "write_verifier",
]

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


def nothing_else_lives(pool):
    """Whether the pool's workers are all that lives; one just started may not show at once."""
    return wait_until(lambda: sorted(living_workers()) == sorted(pool.worker_pids))
