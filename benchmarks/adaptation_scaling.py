"""What adaptation costs: time for each step, bytes, and a checkpoint, against the size of the run.

    python -m benchmarks.adaptation_scaling --prompts 1000 100000 --groups 100 10000

A step is everything that is not sampling, verifying or learning: prompts are drawn, the batch is
composed, buffers are observed, the ledger's lines are made. The same B groups come in at every
size, so a time that grows with the number of prompts or of buffered groups is work that should not
be there. Sizes take turns, so that a machine that slows down slows all; the buffer is full when the
clock starts. Time is the processor's; what a disk adds to a checkpoint, benchmarks.checkpoint_cost
measures. `--packing` looks at a single group instead: the time to pack it for the buffer and to
make records of it again, and what it takes in memory in either form.
"""

import argparse
import json
import statistics
import tempfile
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from timeit import timeit

import numpy as np

from bapo.adaptation import Adaptation
from bapo.adaptation.packed import pack, unpack
from bapo.config import AdaptationSettings
from bapo.training.checkpoints import CheckpointStore
from bapo.training.loop import StepRecord
from bapo.training.prompt_stream import PromptStream
from bapo.types import Completion, FinishReason, Group, Prompt, Rollout, Verdict

BATCH_GROUPS, GROUP_SIZE = 32, 8
ARRIVING = 32
"""Informative groups that enter the buffer in a step."""


@dataclass
class Run:
    """A run without a model.

    Attributes:
        prompts: Training prompts.
        buffered: Groups that the reuse buffer holds when it is full.
        adaptation: Under test.
        stream: Likewise.
        generator: Makes groups.
        step: Steps done.
    """

    prompts: int
    buffered: int
    adaptation: Adaptation
    stream: PromptStream
    generator: np.random.Generator
    step: int = 0

    def advance(self, tokens: int) -> float:
        """Does one step and gives its seconds; making the groups is not counted."""
        self.step += 1
        started = process_time()
        self.stream.begin_step()
        drawn = self.stream.draw(BATCH_GROUPS)
        retried = self.adaptation.prompts_to_retry(self.step)
        seconds = process_time() - started
        fresh = [self.group(prompt, tokens, mixed=True) for prompt in drawn[:ARRIVING]]
        # Half of the batch is to come from the buffer.
        fresh = [*fresh[: ARRIVING // 2], *(self.group(one, tokens, mixed=False) for one in drawn)]
        again = [self.group(prompt, tokens, mixed=False) for prompt in retried]
        started = process_time()
        composition = self.adaptation.compose(self.step, fresh, again)
        events = self.adaptation.observe(self.step, fresh, again)
        record = StepRecord({}, composition, events, ())
        lines = [json.dumps(line) for line in record.ledger_lines()]
        self.adaptation.metrics()
        assert lines
        return seconds + process_time() - started

    def fill(self, tokens: int) -> None:
        """Fills the buffer, 256 groups a step."""
        for start in range(0, self.buffered, 256):
            self.step += 1
            prompts = [
                Prompt(f"filling-{number}", "3 5 7 -> 22", {"target": 22})
                for number in range(start, min(start + 256, self.buffered))
            ]
            groups = [self.group(prompt, tokens, mixed=True) for prompt in prompts]
            self.adaptation.observe(self.step, groups, [])

    def group(self, prompt: Prompt, tokens: int, *, mixed: bool) -> Group:
        """A group of completions of so many tokens, mixed or all wrong."""
        right = int(self.generator.integers(1, 5)) if mixed else 0
        completions = tuple(
            Completion(
                self.generator.integers(0, 21, tokens).astype(np.int32),
                np.full(tokens, -1.0, np.float32),
                np.ones(tokens, np.bool_),
                FinishReason.STOP,
                "x" * tokens,
            )
            for _ in range(GROUP_SIZE)
        )
        rollout = Rollout(
            prompt, np.arange(20, dtype=np.int32), completions, self.step - 1, self.step, 1.0
        )
        verdicts = (Verdict(index < right, float(index < right)) for index in range(GROUP_SIZE))
        return Group(rollout, tuple(verdicts))


def make_run(prompts: int, buffered: int, tokens: int) -> Run:
    """A run with a full buffer."""
    settings = AdaptationSettings(
        reuse_window=100_000, reuse_low_range=(0.0, 0.0), reuse_high_range=(1.0, 1.0)
    )
    adaptation = Adaptation(settings, batch_groups=BATCH_GROUPS, seed=0)
    texts = [Prompt(f"p{number}", "3 5 7 -> 22", {"target": 22}) for number in range(prompts)]
    stream = PromptStream(texts, seed=0, smallest=BATCH_GROUPS)
    run = Run(prompts, buffered, adaptation, stream, np.random.default_rng(0))
    run.fill(tokens)
    return run


def bytes_a_group(tokens: int, sample: int = 200) -> float:
    """What Python holds for a buffered group, measured on a few."""
    tracemalloc.start()
    run = make_run(BATCH_GROUPS, sample, tokens)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(run.adaptation.reusable)


def bytes_of_records(tokens: int, sample: int = 200) -> float:
    """What Python holds for a group as records, measured on a few."""
    run = make_run(BATCH_GROUPS, 0, tokens)
    prompt = Prompt("p", "3 5 7 -> 22", {"target": 22})
    tracemalloc.start()
    groups = [run.group(prompt, tokens, mixed=True) for _ in range(sample)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(groups)


def report_packing(tokens: int, times: int = 500) -> None:
    """Prints time and bytes of one group in the two forms; the times are medians of nine rounds."""
    group = make_run(BATCH_GROUPS, 0, tokens).group(Prompt("p", "3 5 7", {}), tokens, mixed=True)
    packed = pack(group)
    for name, work in (("packing", lambda: pack(group)), ("unpacking", lambda: unpack(packed))):
        rounds = [timeit(work, number=times, timer=process_time) / times for _ in range(9)]
        print(f"{name} a group takes {1000 * statistics.median(rounds):.3f} ms")
    print(f"packed it takes {bytes_a_group(tokens):.0f} bytes in memory")
    print(f"as records it takes {bytes_of_records(tokens):.0f} bytes in memory")


def main() -> None:
    """Prints one line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--tokens", type=int, default=40, help="tokens of each completion")
    parser.add_argument("--steps", type=int, default=60, help="steps timed at each size")
    parser.add_argument("--packing", action="store_true", help="measure a single group instead")
    arguments = parser.parse_args()
    if arguments.packing:
        report_packing(arguments.tokens)
        return
    sizes = [(prompts, groups) for prompts in arguments.prompts for groups in arguments.groups]
    runs = [make_run(*size, arguments.tokens) for size in sizes]
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(arguments.steps):
        for line, run in zip(seconds, runs, strict=True):
            line.append(run.advance(arguments.tokens))
    each = bytes_a_group(arguments.tokens)
    print(f"a group of {GROUP_SIZE} x {arguments.tokens} tokens takes {each:.0f} bytes in memory")
    print("prompts  buffered   step (median)    counted   checkpoint")
    for run, line in zip(runs, seconds, strict=True):
        counted = run.adaptation.metrics()["buffer_megabytes"]
        with tempfile.TemporaryDirectory() as folder:
            started = process_time()
            tree = {"adaptation": run.adaptation.state_dict()}
            CheckpointStore(Path(folder, "checkpoints"), keep=1).save(1, tree)
            saving = process_time() - started
        print(
            f"{run.prompts:7d} {run.buffered:9d} {1000 * statistics.median(line):12.2f} ms "
            f"{counted:8.1f} MB {saving:10.2f} s"
        )


if __name__ == "__main__":
    main()
