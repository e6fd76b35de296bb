"""What measuring the bound costs, as a share of a training step.

Run from the repository: `python -m benchmarks.bound_cost`. Trains the demo's recipe, 32 groups of 8
completions, for a few steps and times the two functions with which a step measures its bound and
its distances, and the step around them. A minute on one core.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np

from bapo.config import load_recipe
from bapo.training import learner
from bapo.training.preparation import prepare
from bapo.training.progress import Silence

MEASURES = ("bound_metrics", "stale_distances")


def main() -> None:
    """Trains, times and prints."""
    parser = argparse.ArgumentParser(description="The cost of measuring the bound.")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    spent = [0.0]

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            started = perf_counter()
            try:
                return function(*given, **named)
            finally:
                spent[0] += perf_counter() - started

        return call

    recipe = load_recipe("countdown-demo", [f"steps={arguments.steps}"])
    shares, measuring = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in MEASURES:
            stack.enter_context(patch.object(learner, name, timed(getattr(learner, name))))
        loop = prepare(recipe, folder, Silence(), stack).loop
        for _ in range(arguments.steps):
            spent[0] = 0.0
            seconds = loop.advance().metrics["seconds"]
            measuring.append(spent[0])
            shares.append(spent[0] / float(seconds or 1.0))
    print(
        f"measuring the bound: median {1e3 * np.median(measuring):.1f} ms a step, "
        f"{100 * np.median(shares):.2f} % of it, at most {100 * np.max(shares):.2f} %"
    )


if __name__ == "__main__":
    main()
