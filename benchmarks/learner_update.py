"""What the learner's fast paths save: one training step's learning, with and without each of them.

    python -m benchmarks.learner_update --millions 0.8 5 30

Every variant learns from the same groups with a model of the same size; they take turns, so that a
machine that slows down slows all. Time is the processor's, on one thread. Memory is the peak of a
process that does nothing but one variant's step.
"""

import argparse
import dataclasses
import math
import statistics
import subprocess
import sys
from time import process_time

import numpy as np
import torch
from accelerate import Accelerator
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from bapo.config import ObjectiveSettings, TrainingSettings
from bapo.training import Learner
from bapo.training.memory import peak_memory_bytes
from bapo.types import (
    BatchEntry,
    Completion,
    FinishReason,
    Group,
    Prompt,
    Rollout,
    Source,
    TrainBatch,
    Verdict,
)

SHAPES = {0.8: (128, 4, 4, 384), 5.0: (256, 6, 4, 768), 30.0: (512, 9, 8, 1408)}
"""Hidden size, layers, heads and intermediate size, by millions of parameters."""

USUAL = TrainingSettings(weight_decay=0.0)
SHARED = dataclasses.replace(USUAL, native_layers=False)
PLAIN = dataclasses.replace(SHARED, share_prompts=False)
VARIANTS = {
    "plain, 16384 tokens a pass": dataclasses.replace(PLAIN, micro_batch_tokens=16384),
    "plain, 2048 tokens a pass": PLAIN,
    "shared prompts under a mask": SHARED,
    "shared prompts, layers in C": USUAL,
    "the same, checkpointed": dataclasses.replace(USUAL, gradient_checkpointing=True),
}


def parse_arguments() -> argparse.Namespace:
    """The size of the work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--millions", type=float, nargs="+", default=[0.8], choices=sorted(SHAPES))
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=22, help="tokens of a prompt, about")
    parser.add_argument("--completion", type=int, default=20, help="mean tokens of a completion")
    parser.add_argument("--vocabulary", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stale", action="store_true", help="groups of older weights")
    parser.add_argument("--memory", choices=list(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_model(millions: float, vocabulary: int) -> PreTrainedModel:
    """A random Llama."""
    hidden, layers, heads, intermediate = SHAPES[millions]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=intermediate,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    return LlamaForCausalLM(config).eval()


def make_batch(arguments: argparse.Namespace) -> TrainBatch:
    """Groups of random tokens; lengths of completions are spread evenly around their mean."""
    generator = np.random.default_rng(0)
    mean = arguments.completion

    def tokens(low: int, high: int) -> np.ndarray:
        size = int(generator.integers(low, high + 1))
        return generator.integers(2, arguments.vocabulary, size).astype(np.int32)

    def completion() -> Completion:
        ids = tokens(max(1, mean // 2), 2 * mean - max(1, mean // 2))
        count = len(ids)
        logps = np.full(count, -math.log(arguments.vocabulary), np.float32)
        return Completion(ids, logps, np.ones(count, np.bool_), FinishReason.STOP, "")

    entries: list[BatchEntry] = []
    for number in range(arguments.groups):
        completions = tuple(completion() for _ in range(arguments.group_size))
        version = -1 if arguments.stale else 0
        prompt = tokens(arguments.prompt - 2, arguments.prompt + 2)
        rollout = Rollout(Prompt(f"p{number}", "", {}), prompt, completions, version, 1, 1.0)
        verdicts = tuple(Verdict(n % 3 == 0, float(n % 3 == 0)) for n in range(len(completions)))
        entries.append(BatchEntry(Group(rollout, verdicts), Source.FRESH))
    return TrainBatch(1, tuple(entries))


def make_learner(variant: str, millions: float, vocabulary: int) -> Learner:
    """A learner of one variant."""
    return Learner(
        make_model(millions, vocabulary),
        pad_token_id=0,
        objective=ObjectiveSettings(),
        training=VARIANTS[variant],
        steps=10,
        sampler_tolerance=math.inf,
        accelerator=Accelerator(cpu=True),
    )


def peak_of(variant: str, millions: float) -> float:
    """Megabytes that a process takes for two steps, over those that it takes before the first."""
    command = [sys.executable, "-m", "benchmarks.learner_update", *sys.argv[1:]]
    command += ["--memory", variant, "--millions", str(millions)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1])


def main() -> None:
    """Prints a line for each size and variant."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    batch = make_batch(arguments)
    if arguments.memory:
        learner = make_learner(arguments.memory, arguments.millions[0], arguments.vocabulary)
        before = peak_memory_bytes(torch.device("cpu"))
        learner.update(batch)
        print((learner.update(batch).peak_memory_bytes - before) / 1e6)
        return
    for millions in arguments.millions:
        learners = {one: make_learner(one, millions, arguments.vocabulary) for one in VARIANTS}
        seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
        for number in range(arguments.rounds + 1):
            for name, learner in learners.items():
                started = process_time()
                learner.update(batch)
                if number:  # the first round warms up
                    seconds[name].append(process_time() - started)
        plain = seconds[next(iter(VARIANTS))]
        for name, found in seconds.items():
            ratios = [one / other for one, other in zip(plain, found, strict=True)]
            print(
                f"{millions:5g} M  {name:30s} {statistics.median(found):8.3f} s  "
                f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})  "
                f"peak {peak_of(name, millions):6.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
