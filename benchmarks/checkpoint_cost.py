"""What a checkpoint costs: seconds to write and to verify, against the size of the policy.

    python -m benchmarks.checkpoint_cost --parameters 1 10 100 --output /path/on/the/disk
    python -m benchmarks.checkpoint_cost --demo-steps 10

The state is that of a run with a delayed behavior policy: weights, a second copy of them, and two
moments of AdamW, all in float32, so 16 bytes for each parameter. Every file is flushed to the disk
before the clock stops. With --demo-steps the demo's recipe is run with a checkpoint after every
step, and the share of a run's time at the recipe's own period is worked out from its metrics.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from bapo.config import load_recipe
from bapo.training import train
from bapo.training.checkpoints import CheckpointStore

ROWS = 1024


def main() -> None:
    """Prints one line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--parameters", type=float, nargs="+", default=[1, 10], help="in millions")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints written of each size")
    parser.add_argument("--output", type=Path, default=None, help="folder on the disk to measure")
    parser.add_argument("--demo-steps", type=int, default=0, help="steps of the demo's recipe")
    arguments = parser.parse_args()
    if arguments.demo_steps:
        with tempfile.TemporaryDirectory(dir=arguments.output) as folder:
            print(share_of_run(Path(folder), arguments.demo_steps))
        return
    print("parameters   on disk   write (median)   verify")
    for millions in arguments.parameters:
        with tempfile.TemporaryDirectory(dir=arguments.output) as folder:
            print(measured(Path(folder), millions, arguments.rounds))


def measured(folder: Path, millions: float, rounds: int) -> str:
    """One line of the table."""
    columns = max(1, round(millions * 1e6 / ROWS / 8))
    weights = {f"layer.{n}": torch.randn(ROWS, columns) for n in range(8)}
    moments = {
        n: {"step": torch.tensor(1.0), "exp_avg": weight.clone(), "exp_avg_sq": weight.clone()}
        for n, weight in enumerate(weights.values())
    }
    trees = {
        "model": weights,
        "behavior": {"version": 1, "weights": {n: w.clone() for n, w in weights.items()}},
        "optimizer": {"state": moments, "param_groups": []},
    }
    store = CheckpointStore(folder / "checkpoints", keep=2)
    seconds = statistics.median(store.save(step, trees) for step in range(rounds))
    started = perf_counter()
    checkpoint = store.newest(lambda _: None, print)
    verified = perf_counter() - started
    assert checkpoint is not None
    size = sum(record.bytes for record in checkpoint.manifest.files.values()) / 1e6
    return f"{millions:8g} M {size:6.0f} MB {seconds:14.3f} s {verified:7.3f} s"


def share_of_run(folder: Path, steps: int) -> str:
    """The share of the demo's time that goes into checkpoints, at its period."""
    period = load_recipe("countdown-demo").training.checkpoint_every
    lean = ["evaluation.every=0", "evaluation.prompts=8", "evaluation.training_prompts=0"]
    settings = [f"steps={steps}", "training.checkpoint_every=1", *lean]
    train(load_recipe("countdown-demo", settings), folder / "run")
    with (folder / "run" / "metrics.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file][1:]  # the first follows no checkpoint
    written = statistics.median(line["seconds_checkpoint"] for line in lines)
    rest = statistics.median(line["seconds"] - line["seconds_checkpoint"] for line in lines)
    share = written / (written + period * rest)
    return (
        f"a checkpoint {written:.3f} s, a step {rest:.3f} s (medians of {len(lines)}); every "
        f"{period} steps that is {share:.2%} of the run"
    )


if __name__ == "__main__":
    main()
