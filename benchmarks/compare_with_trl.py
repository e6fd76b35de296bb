"""Our training step against that of TRL's GRPOTrainer, on the same work.

    python -m benchmarks.compare_with_trl --rounds 3

Same model, prompts, number of rollouts, limit of new tokens, temperature, optimizer updates a step,
reward and threads. Each side runs in a process of its own, in turn (ours, TRL's, ours, TRL's, ...),
so that a machine that slows down slows both. What is timed is whole steps, from drawing prompts to
the last optimizer update; the first step of every process is a warm-up and not counted.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LEARNING_RATE = 3e-5


def parse_arguments() -> argparse.Namespace:
    """The size of the work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="embedded:countdown", help="embedded:NAME or a folder")
    parser.add_argument("--prompts", type=int, default=32, help="prompts a step")
    parser.add_argument("--group-size", type=int, default=8, help="completions per prompt")
    parser.add_argument("--new-tokens", type=int, default=40, help="new tokens at most")
    parser.add_argument("--updates", type=int, default=2, help="optimizer updates a step")
    parser.add_argument("--steps", type=int, default=6, help="steps timed per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: as many as cores")
    parser.add_argument("--side", choices=["bapo", "trl"], help=argparse.SUPPRESS)
    return parser.parse_args()


def countdown_prompts(count: int) -> list[Any]:
    """The prompts of both sides."""
    from bapo.config import TaskSettings
    from bapo.tasks import build_task

    task = build_task(TaskSettings("countdown-4", {"train_size": count}))
    return list(task.training_prompts())


def time_bapo(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of each of our steps, under the `grpo` preset: TRL's algorithm."""
    from bapo.config import resolve_recipe
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
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder, "run"))
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines][1:]
    return {
        "seconds": [line["seconds"] for line in metrics],
        "rollout_seconds": [line["seconds_rollout"] for line in metrics],
        "tokens": [line["completion_tokens_mean"] for line in metrics],
        "adaptation": [line["seconds_adaptation"] for line in metrics],
    }


def time_trl(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and tokens of each of TRL's steps: one generation and all its updates."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from bapo.config import ModelSettings
    from bapo.reward.verifiers.countdown import verify
    from bapo.rollout import load_policy

    policy = load_policy(ModelSettings(path=arguments.model))
    steps = arguments.steps + 1
    data = Dataset.from_list(
        [
            {"prompt": prompt.content, **prompt.columns}
            for prompt in countdown_prompts(arguments.prompts * steps)
        ]
    )

    def reward(completions: list[str], **columns: Any) -> list[float]:
        names = ("numbers", "target", "answer_format")
        return [float(v) for v in verify(completions, **{name: columns[name] for name in names})]

    ends: list[float] = []
    generation: list[float] = []
    lengths: list[float] = []

    class Stopwatch(TrainerCallback):
        """Notes when each optimizer update has ended."""

        def on_train_begin(self, *unused: Any, **also_unused: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *unused: Any, **also_unused: Any) -> None:
            ends.append(time.perf_counter())

    class TimedTrainer(GRPOTrainer):
        """Notes how long each generation takes."""

        def _generate_single_turn(self, *given: Any, **also_given: Any) -> Any:
            started = time.perf_counter()
            made = super()._generate_single_turn(*given, **also_given)
            generation.append(time.perf_counter() - started)
            lengths.append(statistics.fmean(len(ids) for ids in made[0]))
            return made

    rollouts = arguments.prompts * arguments.group_size
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model=policy.model,
            reward_funcs=reward,
            train_dataset=data,
            processing_class=policy.tokenizer,
            callbacks=[Stopwatch()],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=rollouts // arguments.updates,
                steps_per_generation=arguments.updates,
                num_generations=arguments.group_size,
                max_completion_length=arguments.new_tokens,
                max_steps=steps * arguments.updates,
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
            ),
        )
        trainer.train()
    whole = ends[:: arguments.updates]
    seconds = [after - before for before, after in itertools.pairwise(whole)]
    return {
        "seconds": seconds[1:],
        "rollout_seconds": generation[1:],
        "tokens": lengths[1:],
    }


def run_side(side: str) -> dict[str, Any]:
    """One side in a process of its own, with the arguments of this one."""
    command = [sys.executable, "-m", "benchmarks.compare_with_trl", *sys.argv[1:], "--side", side]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"The side {side} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


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
    ratios: list[float] = []
    rollout_ratios: list[float] = []
    for number in range(1, arguments.rounds + 1):
        ours, theirs = run_side("bapo"), run_side("trl")
        ratios.append(statistics.median(theirs["seconds"]) / statistics.median(ours["seconds"]))
        rollout_ratios.append(
            statistics.median(theirs["rollout_seconds"])
            / statistics.median(ours["rollout_seconds"])
        )
        share = sum(ours["adaptation"]) / sum(ours["seconds"])
        print(
            f"round {number}: seconds a step, bapo {spread(ours['seconds'])}, "
            f"TRL {spread(theirs['seconds'])}; generation alone, bapo "
            f"{spread(ours['rollout_seconds'])}, TRL {spread(theirs['rollout_seconds'])}; "
            f"tokens per completion {statistics.fmean(ours['tokens']):.1f} and "
            f"{statistics.fmean(theirs['tokens']):.1f}; adaptation {100 * share:.2f} % of our step",
            flush=True,
        )
    print(f"whole step, TRL / bapo: {spread(ratios)}")
    print(f"generation, TRL / bapo: {spread(rollout_ratios)}")


if __name__ == "__main__":
    main()
