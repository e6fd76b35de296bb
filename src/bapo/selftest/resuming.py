"""Runs that are ended in real processes, resumed, and held to the run that was never ended."""

import os
import random
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bapo.selftest.bench import Bench, Ending, end_of, log_of
from bapo.selftest.comparing import json_lines, run_difference
from bapo.selftest.ingredients import STEPS
from bapo.selftest.killing import Trap
from bapo.selftest.results import Check, require
from bapo.training.run_folder import METRICS

AREA = "Runs that are ended and resumed: they end with the bits of the run that was never ended"
ALGORITHMS = ("bapo", "dapo", "grpo")

POINTS = {
    "before-rollout": ("before a step samples", 8),
    "while-sampling": ("while it samples", 60),
    "while-verifying": ("while answers are verified", 12),
    "after-verdicts": ("after the verdicts", 8),
    "before-optimizer": ("before an optimizer step", 12),
    "after-optimizer": ("after an optimizer step", 12),
    "amid-line": ("with half a line in metrics.jsonl", 8),
    "before-checkpoint": ("before a checkpoint", 4),
    "amid-buffers": ("with half of the buffers on disk", 4),
    "before-manifest": ("before the manifest", 4),
    "before-rename": ("before a checkpoint is renamed", 4),
    "after-rename": ("after a checkpoint is renamed", 4),
    "while-removing": ("while an old checkpoint is removed", 2),
    "while-measuring": ("while it measures", 8),
    "before-summary": ("before the summary", 1),
}
"""In words, and how often each run comes there at least; one of the 4 checkpoints is of step 0."""
WITHIN_STEPS = (Trap("while-sampling", 45), Trap("after-optimizer", 7), Trap("before-rename", 1))
"""In steps 2, 4 and 6: the first resumption starts from step 0, the second from step 3."""


def short_checks() -> list[Check]:
    """The least that shows that a run survives being killed."""
    return [
        Check(
            AREA,
            "killed three times after a step",
            "SIGKILL amid an epoch, where two meet, and after the last step",
            partial(_killed, algorithm="bapo", steps=(2, 5, 8)),
        ),
        Check(
            AREA,
            "killed three times within a step",
            "SIGKILL while sampling, after an optimizer step, before a rename",
            partial(_killed, algorithm="bapo", traps=WITHIN_STEPS),
        ),
    ]


def point_checks(algorithm: str, times: int) -> list[Check]:
    """A check for each named point, which is tried at some of its visits.

    Args:
        algorithm: What is trained.
        times: How many visits are tried, each in a run of its own.
    """
    checks = []
    for point, (words, latest) in POINTS.items():
        drawn = random.Random(f"{point}/{algorithm}").sample(
            range(1, latest + 1), min(times, latest)
        )
        checks.append(
            Check(
                AREA,
                f"{algorithm} killed {words}",
                f"SIGKILL at visit {' and '.join(map(str, drawn))}",
                partial(_killed_in_turn, algorithm=algorithm, point=point, drawn=drawn),
            )
        )
    return checks


def step_checks() -> list[Check]:
    """A kill after every step, and before the first."""
    first = Check(
        AREA,
        "bapo killed before step 1",
        "SIGKILL once the base model is measured and saved",
        partial(_killed, algorithm="bapo", traps=(Trap("after-rename", 1),)),
    )
    return [
        first,
        *(
            Check(
                AREA,
                f"bapo killed after step {step}",
                "SIGKILL",
                partial(_killed, algorithm="bapo", steps=(step,)),
            )
            for step in range(1, STEPS + 1)
        ),
    ]


def random_checks(algorithm: str, seeds: int) -> list[Check]:
    """Three kills in one run, whenever they happen to come."""
    return [
        Check(
            AREA,
            f"{algorithm} killed at three random moments, {seed + 1}",
            "SIGKILL by the clock, 3 times",
            partial(_killed_at_random, algorithm=algorithm, seed=seed),
        )
        for seed in range(seeds)
    ]


def leaving_checks() -> list[Check]:
    """What a run does that is asked to leave, and one that is in use."""
    return [
        Check(
            AREA,
            "asked to leave by SIGTERM",
            "it finishes the step, saves, says how to go on, exits with 1",
            _asked_to_leave,
        ),
        Check(
            AREA,
            "asked twice",
            "while a step hangs, the second SIGTERM ends it at once",
            _asked_twice,
        ),
        Check(
            AREA,
            "two in one folder",
            "the second process is refused, the first goes on",
            _two_in_one_folder,
        ),
    ]


def require_same(bench: Bench, run: Path, ending: Ending, *overrides: str) -> None:
    """Makes sure that a run ended well and as the one that was never ended."""
    require(ending.code == 0, f"resumed, it ended with exit code {ending.code}: {ending.last}")
    difference = run_difference(run, bench.finished(*overrides), STEPS)
    require(difference is None, f"not the run that was never ended: {difference}")


def _killed(
    bench: Bench, *, algorithm: str, steps: Sequence[int] = (), traps: Sequence[Trap] = ()
) -> str:
    """One run, killed after some steps or in some traps, each time resumed."""
    run = bench.new_folder()
    for number in range(len(steps) or len(traps)):
        resume = has_checkpoint(run)
        trap = traps[number] if traps else Trap("after-step", steps[number] - _resumed_from(run))
        ending = bench.train(run, f"algorithm={algorithm}", resume=resume, trap=trap)
        require(
            ending.code == -signal.SIGKILL,
            f"it was to be killed at {trap.point} but ended with {ending.code}: {ending.last}",
        )
    ending = _finish(bench, run, algorithm)
    require_same(bench, run, ending, f"algorithm={algorithm}")
    return ""


def _killed_in_turn(bench: Bench, *, algorithm: str, point: str, drawn: Sequence[int]) -> str:
    for times in drawn:
        _killed(bench, algorithm=algorithm, traps=(Trap(point, times),))
    return ""


def _killed_at_random(bench: Bench, *, algorithm: str, seed: int) -> str:
    moments = random.Random(f"{seed}/{algorithm}")
    run, override = bench.new_folder(), f"algorithm={algorithm}"
    kills = 0
    for _ in range(3):
        process = bench.start(run, override, resume=has_checkpoint(run))
        deadline = time.monotonic() + 60
        while not has_checkpoint(run) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.6))
        if process.is_alive():
            process.kill()
        ending = end_of(process, log_of(run))
        if ending.code == 0:
            break
        require(ending.code == -signal.SIGKILL, f"it ended with {ending.code}: {ending.last}")
        kills += 1
    else:
        ending = _finish(bench, run, algorithm)
    require_same(bench, run, ending, override)
    return f"killed {kills} times"


def _finish(bench: Bench, run: Path, algorithm: str) -> Ending:
    """Resumes a run; one that was killed before its first checkpoint is started again."""
    override = f"algorithm={algorithm}"
    if not has_checkpoint(run):
        refused = bench.train(run, override, resume=True)
        require(
            refused.code == 2 and "without --resume" in refused.said,
            f"without a checkpoint it ended with {refused.code}: {refused.last}",
        )
        if run.exists():
            run.rename(run.with_name(f"{run.name}-given-up"))
        return bench.train(run, override)
    return bench.train(run, override, resume=True)


def _asked_to_leave(bench: Bench) -> str:
    run = bench.new_folder()
    ending = bench.train(run, trap=Trap("after-step", 4, signal.SIGTERM))
    require(ending.code == 1, f"it ended with {ending.code}: {ending.last}")
    require("--resume" in ending.said, f"it did not say how to go on: {ending.last}")
    require(_resumed_from(run) == 4, f"it saved step {_resumed_from(run)} and not 4")
    require_same(bench, run, bench.train(run, resume=True))
    return ""


def _asked_twice(bench: Bench) -> str:
    run = bench.new_folder()
    process = bench.start(run, trap=Trap("stuck", 2))
    wait_for_lines(run / METRICS, 1)
    time.sleep(0.5)  # between the two steps one signal would be enough
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(0.5)
    alive = process.is_alive()
    os.kill(process.pid or 0, signal.SIGTERM)
    asked = time.monotonic()
    ending = end_of(process, log_of(run))
    seconds = time.monotonic() - asked
    require(alive, "the first signal ended it")
    require(ending.code == 128 + signal.SIGTERM, f"it ended with {ending.code}: {ending.last}")
    require(seconds < 10, f"the second signal took {seconds:.1f} s")
    return f"ended {seconds:.1f} s after the second"


def _two_in_one_folder(bench: Bench) -> str:
    run = bench.new_folder()
    process = bench.start(run, "steps=100000")
    wait_for_lines(run / METRICS, 1)
    second = bench.train(run, "steps=100000", resume=True)
    before = len(json_lines(run / METRICS))
    wait_for_lines(run / METRICS, before + 2)
    alive = process.is_alive()
    process.kill()
    end_of(process, log_of(run))
    require(second.code == 2, f"the second ended with {second.code}: {second.last}")
    require("in use by another run" in second.said, f"the second said: {second.last}")
    require(alive, "the first one ended")
    return ""


def wait_for_lines(path: Path, count: int) -> None:
    """Waits until a file has so many lines."""
    deadline = time.monotonic() + 60
    while not path.is_file() or path.read_bytes().count(b"\n") < count:
        require(time.monotonic() < deadline, f"{path.name} did not grow to {count} lines")
        time.sleep(0.005)


def has_checkpoint(run: Path) -> bool:
    """Whether a run can be resumed."""
    return any(run.glob("checkpoints/step-*"))


def _resumed_from(run: Path) -> int:
    """The step that a run would be resumed from; 0 for one that is not there."""
    steps = [int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")]
    return max(steps, default=0)
