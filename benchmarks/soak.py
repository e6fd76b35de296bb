"""What a long run takes from the machine: memory, files, threads and processes, over its steps.

    python -m benchmarks.soak --steps 2000

The loop, adaptation, prompts, policy versions, verifier processes, run folder and checkpoints are
the real ones. The policy is a table, so that two thousand steps take minutes and what grows is not
hidden behind a model. Now and then an answer crashes its verifier process, and one hangs.
"""

import argparse
import gc
import os
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tests.builders import make_prompt
from tests.table_policy import table_loop, table_recipe

from bapo.config import RewardSettings
from bapo.reward import GroupVerifier, VerifierPool
from bapo.selftest.processes import living_workers
from bapo.training.checkpoints import CheckpointStore
from bapo.training.loop import Loop
from bapo.training.prompt_stream import PromptStream
from bapo.training.run_folder import LEDGER, METRICS, QUARANTINE, RunFolder

WORKERS = 2
PROMPTS = 64
CHECKPOINT_EVERY = 50

VERIFIER = """
import os
import time


def verify(completions):
    (letter,) = completions
    if letter == "x":
        os._exit(3)
    if letter == "t":
        time.sleep(60)
    return [letter == "1"]
"""


class Drifting(dict[tuple[str, int], str]):
    """A table without end: what a prompt is answered follows from its name and the version."""

    def __missing__(self, key: tuple[str, int]) -> str:
        """Four letters: right, wrong, seldom a crash or a hang."""
        number = zlib.crc32(f"{key[0]}/{key[1]}".encode())
        right = number % 5
        letters = "1" * right + "0" * (4 - right)
        if number % 101 == 0:
            return "x" + letters[1:]
        return "t" + letters[1:] if number % 503 == 0 else letters


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a run holds of the machine.

    Attributes:
        step: Steps done.
        megabytes: Memory of the training process.
        worker_megabytes: Memory of the verifier processes.
        files: Open files.
        threads: Threads of the training process.
        processes: Verifier processes and whatever they started.
        replaced: Verifier processes replaced so far.
        milliseconds: Time of a step, on average since the footprint before.
    """

    step: int
    megabytes: float
    worker_megabytes: float
    files: int
    threads: int
    processes: int
    replaced: int
    milliseconds: float


def soak(steps: int, every: int, folder: Path) -> Iterator[Footprint]:
    """Trains a table policy and looks, every so many steps, at what it holds.

    Args:
        steps: Training steps.
        every: Steps from one look to the next.
        folder: Where the run is written; it is there and empty.
    """
    (folder / "verifier.py").write_text(VERIFIER, encoding="utf-8")
    settings = RewardSettings(workers=WORKERS, timeout_seconds=0.2, memory_megabytes=256)
    run = RunFolder(folder)
    store = CheckpointStore(folder / "checkpoints", keep=2)
    with VerifierPool(f"{folder / 'verifier.py'}:verify", settings) as pool:
        loop = _loop(steps, pool)
        started = perf_counter()
        for step in range(1, steps + 1):
            _advance(loop, run)
            if step % CHECKPOINT_EVERY == 0:
                store.save(step, _state(loop))
            if step % every == 0:
                milliseconds = (perf_counter() - started) / every * 1000
                yield _footprint(step, pool, milliseconds)
                started = perf_counter()
    run.close()


def _loop(steps: int, pool: VerifierPool) -> Loop:
    recipe = table_recipe(
        steps=steps,
        adaptation={"behavior_sync_every": 2, "retry_every": 2},
        training={"batch_groups": 8},
        reward={"max_invalid_share": 1.0},
    )
    loop = table_loop(recipe, Drifting(), [])
    prompts = [make_prompt(f"prompt-{number}") for number in range(PROMPTS)]
    loop.stream = PromptStream(prompts, seed=recipe.seed, smallest=8)
    loop.verify = GroupVerifier(pool)
    return loop


def _advance(loop: Loop, run: RunFolder) -> None:
    """One step and its lines; what the table policy itself keeps for tests is let go."""
    record = loop.advance()
    run.append(QUARANTINE, record.quarantine)
    run.append(LEDGER, record.ledger_lines())
    run.append(METRICS, [record.metrics])
    loop.learner.batches.clear()  # type: ignore[attr-defined]
    loop.engine.asked.clear()  # type: ignore[attr-defined]


def _state(loop: Loop) -> dict[str, dict[str, object]]:
    return {
        "adaptation": loop.adaptation.state_dict(),
        "behavior": loop.policies.state_dict(),  # type: ignore[attr-defined]
        "run": {"loop": loop.state_dict(), "stream": loop.stream.state_dict()},
    }


def _footprint(step: int, pool: VerifierPool, milliseconds: float) -> Footprint:
    gc.collect()
    workers = living_workers()
    return Footprint(
        step=step,
        megabytes=_megabytes(os.getpid()),
        worker_megabytes=sum(map(_megabytes, workers)),
        files=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
        processes=len(workers),
        replaced=int(pool.metrics()["verifier_workers_replaced"] or 0),
        milliseconds=milliseconds,
    )


def _megabytes(pid: int) -> float:
    """Memory of a process that is its own, or that it shares with few."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Prints one line for each look."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200)
    arguments = parser.parse_args()
    print("  step  memory MB  verifiers MB  files  threads  processes  replaced  ms a step")
    with tempfile.TemporaryDirectory() as folder:
        for one in soak(arguments.steps, arguments.every, Path(folder)):
            print(
                f"{one.step:6d} {one.megabytes:10.1f} {one.worker_megabytes:13.1f} {one.files:6d} "
                f"{one.threads:8d} {one.processes:10d} {one.replaced:9d} {one.milliseconds:10.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
