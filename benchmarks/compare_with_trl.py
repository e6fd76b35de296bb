"""Our training step against that of TRL's GRPOTrainer, on the same work.

    python -m benchmarks.compare_with_trl --rounds 3 --size 0.8M

Same model, prompts, number of rollouts, limit of new tokens, temperature, optimizer updates a step,
reward and threads. Each side runs in a process of its own, in turn (ours, TRL's, ours, TRL's, ...),
so that a machine that slows down slows both. What is timed is whole steps, from drawing prompts to
the last optimizer update; the first step of every process is a warm-up and not counted. Memory is
the peak of the resident set of each process, in all and above what it held before its first step.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sizes import EMBEDDED, SHAPES, last_json, model_of, spread

LEARNING_RATE = 3e-5


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The size of the work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default=EMBEDDED, help="embedded:NAME or a folder")
    parser.add_argument("--size", choices=list(SHAPES), help="a model of this size, instead")
    parser.add_argument("--prompts", type=int, default=32, help="prompts a step")
    parser.add_argument("--group-size", type=int, default=8, help="completions per prompt")
    parser.add_argument("--new-tokens", type=int, default=40, help="new tokens at most")
    parser.add_argument("--updates", type=int, default=2, help="optimizer updates a step")
    parser.add_argument("--steps", type=int, default=6, help="steps timed per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: as many as cores")
    parser.add_argument("--side", choices=["bapo", "trl"], help=argparse.SUPPRESS)
    return parser.parse_args(words)


def countdown_prompts(count: int) -> list[Any]:
    """The prompts of both sides."""
    from bapo.config import TaskSettings
    from bapo.tasks import build_task

    task = build_task(TaskSettings("countdown-4", {"train_size": count}))
    return list(task.training_prompts())


def held_bytes() -> int:
    """The resident set now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def time_bapo(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of each of our steps, under the `grpo` preset: TRL's algorithm."""
    from bapo.config import ModelSettings, resolve_recipe
    from bapo.rollout import load_policy
    from bapo.training import train

    steps = arguments.steps + 1
    recipe = resolve_recipe(
        {
            "algorithm": "grpo",
            "model": arguments.model,
            "task": {"name": "countdown-4", "train_size": arguments.prompts * steps},
            "steps": steps,
            "rollout": {
                "group_size": arguments.group_size,
                "max_new_tokens": arguments.new_tokens,
            },
            "training": {
                "batch_groups": arguments.prompts,
                "updates_per_step": arguments.updates,
                "learning_rate": LEARNING_RATE,
                "weight_decay": 0.0,
                "checkpoint_every": 0,
            },
            "evaluation": {"every": 0, "prompts": 1, "samples": 1, "training_prompts": 0},
        }
    )
    policy = load_policy(ModelSettings(path=arguments.model))
    before = held_bytes()
    del policy
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder, "run"))
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][1:]
    return {
        "seconds": [line["seconds"] for line in metrics],
        "rollout_seconds": [line["seconds_rollout"] for line in metrics],
        "tokens": [line["completion_tokens_mean"] for line in metrics],
        "adaptation": [line["seconds_adaptation"] for line in metrics],
        "peak": [peak_bytes()],
        "above": [peak_bytes() - before],
        "metrics": metrics,
    }


@dataclass
class Notes:
    """What is noted of TRL's steps: when updates end, and of each generation time and tokens."""

    ends: list[float] = field(default_factory=lambda: list[float]())
    generation: list[float] = field(default_factory=lambda: list[float]())
    lengths: list[float] = field(default_factory=lambda: list[float]())


def reward(completions: list[str], **columns: Any) -> list[float]:
    """TRL's reward function: our verifier of Countdown."""
    from bapo.reward.verifiers.countdown import verify

    names = ("numbers", "target", "answer_format")
    return [float(v) for v in verify(completions, **{name: columns[name] for name in names})]


def timed_trainer(notes: Notes) -> tuple[type[Any], Any]:
    """A GRPOTrainer that notes how long each generation takes, and a callback for its updates."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    class Stopwatch(TrainerCallback):
        """Notes when each optimizer update has ended."""

        def on_train_begin(self, *unused: Any, **also_unused: Any) -> None:
            notes.ends.append(time.perf_counter())

        def on_step_end(self, *unused: Any, **also_unused: Any) -> None:
            notes.ends.append(time.perf_counter())

    class TimedTrainer(GRPOTrainer):
        """Notes how long each generation takes."""

        def _generate_single_turn(self, *given: Any, **also_given: Any) -> Any:
            started = time.perf_counter()
            made = super()._generate_single_turn(*given, **also_given)
            notes.generation.append(time.perf_counter() - started)
            notes.lengths.append(statistics.fmean(len(ids) for ids in made[0]))
            return made

    return TimedTrainer, Stopwatch()


def trl_settings(arguments: argparse.Namespace, folder: str) -> Any:
    """The same work in TRL's terms."""
    import torch
    from trl import GRPOConfig

    rollouts = arguments.prompts * arguments.group_size
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=rollouts // arguments.updates,
        steps_per_generation=arguments.updates,
        num_generations=arguments.group_size,
        max_completion_length=arguments.new_tokens,
        max_steps=(arguments.steps + 1) * arguments.updates,
        learning_rate=LEARNING_RATE,
        temperature=1.0,
        beta=0.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def time_trl(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of each of TRL's steps: one generation and all its updates."""
    from datasets import Dataset

    from bapo.config import ModelSettings
    from bapo.rollout import load_policy

    policy = load_policy(ModelSettings(path=arguments.model))
    before = held_bytes()
    prompts = countdown_prompts(arguments.prompts * (arguments.steps + 1))
    data = Dataset.from_list([{"prompt": one.content, **one.columns} for one in prompts])
    notes = Notes()
    trainer_class, stopwatch = timed_trainer(notes)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            model=policy.model,
            reward_funcs=reward,
            train_dataset=data,
            processing_class=policy.tokenizer,
            callbacks=[stopwatch],
            args=trl_settings(arguments, folder),
        )
        trainer.train()
    whole = notes.ends[:: arguments.updates]
    seconds = [after - before for before, after in itertools.pairwise(whole)]
    return {
        "seconds": seconds[1:],
        "rollout_seconds": notes.generation[1:],
        "tokens": notes.lengths[1:],
        "peak": [peak_bytes()],
        "above": [peak_bytes() - before],
    }


def run_side(side: str, words: Sequence[str]) -> dict[str, Any]:
    """One side in a process of its own.

    Args:
        side: `bapo` or `trl`.
        words: The arguments of the command line.
    """
    command = [sys.executable, "-m", "benchmarks.compare_with_trl", *words, "--side", side]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"The side {side} failed:\n{result.stderr[-3000:]}")
    return last_json(result.stdout)


def ratio(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> float:
    """TRL's median over ours."""
    return statistics.median(theirs[name]) / statistics.median(ours[name])


def compare(words: Sequence[str], rounds: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Both sides in turn, and a line for each round."""
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for number in range(1, rounds + 1):
        ours, theirs = run_side("bapo", words), run_side("trl", words)
        pairs.append((ours, theirs))
        share = sum(ours["adaptation"]) / sum(ours["seconds"])
        print(
            f"round {number}: seconds a step, bapo {spread(ours['seconds'], 3)}, "
            f"TRL {spread(theirs['seconds'], 3)}; generation alone, bapo "
            f"{spread(ours['rollout_seconds'], 3)}, TRL {spread(theirs['rollout_seconds'], 3)}; "
            f"tokens per completion {statistics.fmean(ours['tokens']):.1f} and "
            f"{statistics.fmean(theirs['tokens']):.1f}; adaptation {100 * share:.2f} % of our "
            f"step; peak memory {ours['peak'][0] / 1e6:.0f} and {theirs['peak'][0] / 1e6:.0f} MB",
            file=sys.stderr,
            flush=True,
        )
    return pairs


def main() -> None:
    """Runs both sides in turn and prints the ratios."""
    arguments = parse_arguments()
    if arguments.side:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        result = (time_bapo if arguments.side == "bapo" else time_trl)(arguments)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as folder:
        words = sys.argv[1:]
        if arguments.size:
            words += ["--model", model_of(arguments.size, Path(folder))]
        pairs = compare(words, arguments.rounds)
    for label, name in (("whole step", "seconds"), ("generation", "rollout_seconds")):
        print(f"{label}, TRL / bapo: {spread([ratio(*pair, name) for pair in pairs])}")
    for label, name in (("peak memory", "peak"), ("of it above the start", "above")):
        print(f"{label}, TRL / bapo: {spread([ratio(*pair, name) for pair in pairs])}")


if __name__ == "__main__":
    main()
