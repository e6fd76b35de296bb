"""Verifiers that misbehave, in the real pool; processes are counted in /proc, not by the pool."""

import os
import time
from functools import partial
from pathlib import Path

from bapo.config import RewardSettings
from bapo.reward import VerifierPool
from bapo.selftest.bench import Bench
from bapo.selftest.processes import living_workers, wait_until
from bapo.selftest.results import Check, require
from bapo.types import Verdict

LIMIT_SECONDS = 0.5
AREA = f"Verifiers that misbehave: killed within {LIMIT_SECONDS + 1:g} s, and others are scored"
MISDEEDS = f"{Path(__file__).with_name('misdeeds.py')}:misbehave"
ROUND = 2000

DEEDS = {
    "spin": ("loops for ever", "timeout"),
    "regex": ("hangs in one C call that holds the GIL", "timeout"),
    "stubborn": ("hangs, ignores signals, swallows exceptions", "timeout"),
    "fork and hang": ("forks, also into another session, and hangs", "timeout"),
    "fork and die": ("forks and dies", "error"),
    "fork and return": ("forks and answers twice", "ok"),
    "leave child": ("leaves a child behind and answers", "ok"),
    "exit": ("calls os._exit", "error"),
    "segfault": ("crashes in C", "error"),
    "abort": ("aborts", "error"),
    "exhaust": ("asks for a terabyte", "error"),
    "hoard": ("eats memory and swallows the error", "timeout"),
    "flood": ("floods its output", "ok"),
    "close and hang": ("closes its channel and hangs", "error"),
    "raise": ("raises", "error"),
    "nan": ("returns NaN", "invalid"),
    "None": ("returns nothing", "invalid"),
}
"""In words, and the status of the verdict."""

QUICK_DEEDS = ("regex", "fork and hang", "exit", "segfault", "exhaust", "flood", "leave child")


def misdeed_checks(names: tuple[str, ...] = tuple(DEEDS)) -> list[Check]:
    """A check for each misdeed."""
    return [
        Check(
            AREA,
            f"one that {DEEDS[name][0]}",
            f"its verdict is {DEEDS[name][1]}",
            partial(_one_misdeed, deed=name, status=DEEDS[name][1]),
        )
        for name in names
    ]


def endurance_checks() -> list[Check]:
    """All of it again and again."""
    return [
        Check(
            AREA,
            "all of it, twenty times",
            "files, processes and verdicts a second are what they were before",
            _endurance,
        )
    ]


def _pool() -> VerifierPool:
    settings = RewardSettings(timeout_seconds=LIMIT_SECONDS, workers=2, memory_megabytes=512)
    return VerifierPool(MISDEEDS, settings)


def _verify(pool: VerifierPool, *texts: str) -> list[Verdict]:
    return pool.verify([(text, {}) for text in texts])


def _only_workers_live(pool: VerifierPool) -> bool:
    return sorted(living_workers()) == sorted(pool.worker_pids)


def _one_misdeed(bench: Bench, *, deed: str, status: str) -> str:
    with _pool() as pool:
        workers = len(living_workers())
        require(workers == 2, f"{workers} workers were counted where 2 were started")
        started = time.monotonic()
        verdicts = _verify(pool, "right", deed, "wrong", "right")
        seconds = time.monotonic() - started
        found = [verdict.status.value for verdict in verdicts]
        require(found == ["ok", status, "ok", "ok"], f"the verdicts are {found}")
        correct = [verdict.correct for verdict in verdicts]
        expected = [True, status == "ok", False, True]
        require(correct == expected, f"right and wrong are {correct}")
        require(seconds < LIMIT_SECONDS + 1, f"it took {seconds:.1f} s")
        if deed != "leave child":  # which may live for as long as the pool
            alone = wait_until(lambda: _only_workers_live(pool))
            require(alone, f"{len(living_workers())} processes live where 2 workers should")
        after = [verdict.correct for verdict in _verify(pool, "right", "wrong")]
        require(after == [True, False], f"afterwards right and wrong are {after}")
    left = living_workers()
    require(not left, f"{len(left)} processes outlive the pool")
    if status == "timeout":
        return f"killed after {verdicts[1].milliseconds / 1000:.2f} s"
    return verdicts[1].detail[:80].rstrip(".")


def _endurance(bench: Bench) -> str:
    deeds = ["right", "exit", "segfault", "raise", "nan", "flood", "exhaust", "fork and die"]
    with _pool() as pool:
        before = _verdicts_a_second(pool)
        files = _open_files()
        for number in range(20):
            hang = ("regex", "spin", "fork and hang", "stubborn")[number % 4]
            _verify(pool, *deeds, hang)
        require(wait_until(lambda: _only_workers_live(pool)), "more than the workers live")
        after, left = _verdicts_a_second(pool), _open_files()
    require(left == files, f"{left} files are open where there were {files}")
    require(after > before / 2, f"{after:.0f} verdicts a second, {before:.0f} before")
    require(not living_workers(), "processes outlive the pool")
    return f"{before:.0f} verdicts a second before, {after:.0f} after"


def _verdicts_a_second(pool: VerifierPool) -> float:
    """The best of five rounds, since other processes may take the cores away from some."""
    rounds: list[float] = []
    for _ in range(5):
        started = time.monotonic()
        _verify(pool, *["right"] * ROUND)
        rounds.append(time.monotonic() - started)
    return ROUND / min(rounds)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
