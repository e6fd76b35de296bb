"""What a checkpoint costs: seconds to write and to verify, against the size of the policy.

    python -m benchmarks.checkpoint_cost --parameters 1 10 100 --output /path/on/the/disk

The state is that of a run with a delayed behavior policy: weights, a second copy of them, and two
moments of AdamW, all in float32, so 16 bytes for each parameter. Every file is flushed to the disk
before the clock stops.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import torch

from bapo.training.checkpoints import CheckpointStore

ROWS = 1024


def main() -> None:
    """Prints one line for each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--parameters", type=float, nargs="+", default=[1, 10], help="in millions")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints written of each size")
    parser.add_argument("--output", type=Path, default=None, help="folder on the disk to measure")
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    main()
