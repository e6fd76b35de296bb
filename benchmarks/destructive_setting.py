"""A destructive setting, gated and ungated: learning rate ten times too high, v = 50.

Run from the repository: `python -m benchmarks.destructive_setting`. BAPO trains a policy whose
answers can be listed, so that the accuracy of every step is exact: a table with a row of logits for
each prompt, or with `--policy transformer` a random one-layer transformer, whose prompts share
their weights. Writes docs/figures/destructive_setting_POLICY.svg and prints what docs/guarantee.md
quotes. The table takes a minute on one core, the transformer four.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from tests.enumerable import exact_recipe, table_run, transformer_run

from bapo.config import TrainingSettings
from bapo.reporting.figures.style import drawing

LEARNING_RATES = {"table": 0.05, "transformer": 1e-3}
"""At which the policies learn well; the destructive setting has ten times as much."""

PROMPTS = 16
GATE = {"adaptation": {"max_tv": 0.3}, "objective": {"enforce_bound": True, "trust_region": 0.2}}
STEERED = {"adaptation": {"adaptive_staleness": True, "target_tv": 0.1}}
VARIANTS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "a tenth of the rate, v = 5": ("#687382", ({"adaptation": {"behavior_sync_every": 5}},)),
    "ungated": ("#D55E00", ()),
    "max_tv": ("#E69F00", ({"adaptation": GATE["adaptation"]},)),
    "max_tv, enforce_bound": ("#0072B2", (GATE,)),
    "adaptive_staleness": ("#CC79A7", (STEERED,)),
    "all three": ("#009E73", (GATE, STEERED)),
}


def main() -> None:
    """Trains every variant with every seed, draws and prints."""
    parser = argparse.ArgumentParser(description="The gate under a destructive setting.")
    parser.add_argument("--policy", choices=list(LEARNING_RATES), default="table")
    parser.add_argument("--output", type=Path, help="the figure")
    parser.add_argument("--weight-decay", type=float, default=TrainingSettings().weight_decay)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    policy = arguments.policy
    output = arguments.output or Path(f"docs/figures/destructive_setting_{policy}.svg")
    with drawing(10.5, 4.2) as figure:
        accuracy, distance = figure.subplots(1, 2)
        for name, (colour, changes) in VARIANTS.items():
            scale = 1 if name.startswith("a tenth") else 10
            training = {
                "learning_rate": scale * LEARNING_RATES[policy],
                "weight_decay": arguments.weight_decay,
            }
            runs = [
                _train(policy, training, changes, seed, arguments.steps)
                for seed in range(arguments.seeds)
            ]
            _draw(accuracy, [run["accuracy"] for run in runs], colour, name)
            _draw(distance, [run["tv_policy"] for run in runs], colour, name)
            _print(name, runs)
        accuracy.set(title="Exact accuracy, mean and range over seeds", xlabel="step", ylim=(0, 1))
        distance.set(title="Estimated TV(pi, alpha) in the batch", xlabel="step", ylim=(0, 1))
        accuracy.legend()
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(
            output,
            format="svg",
            facecolor="white",
            metadata={"Date": None, "Creator": None},
        )
    print(f"wrote {output}")


def _train(
    policy: str,
    training: dict[str, float],
    changes: tuple[dict[str, Any], ...],
    seed: int,
    steps: int,
) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "adaptation": {"behavior_sync_every": 50},
        "objective": {"bound_after_update": True},
        "rollout": {"max_new_tokens": 3, "max_prompt_tokens": 8},
        "training": training,
    }
    for change in changes:
        for section, values in change.items():
            sections[section] = sections[section] | values
    recipe = exact_recipe("bapo", steps=steps, groups=8, **sections)
    build = table_run if policy == "table" else transformer_run
    run = build(recipe, prompts=PROMPTS, seed=seed)
    lines = [run.advance().metrics for _ in range(steps)]
    return {
        "accuracy": [run.value(version) for version in range(steps + 1)],
        "tv_policy": [line["tv_policy"] for line in lines],
        "refused": sum(line["groups_refused"] for line in lines),
        "shortened": sum(line["step_scale"] < 1 for line in lines),
        "given_up": sum(line["step_scale"] == 0 for line in lines),
        "empty": sum(line["tv_policy"] is None for line in lines),
    }


def _draw(axes: Axes, runs: list[list[float | None]], colour: str, name: str) -> None:
    values = np.array(runs, dtype=np.float64)
    steps = np.arange(values.shape[1])
    known = np.isfinite(values).any(axis=0)
    values, steps = values[:, known], steps[known]
    axes.fill_between(
        steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.12, lw=0
    )
    axes.plot(steps, np.nanmean(values, axis=0), color=colour, lw=1.6, label=name)


def _print(name: str, runs: list[dict[str, Any]]) -> None:
    ends = ", ".join(f"{run['accuracy'][-1]:.2f}" for run in runs)
    drops = ", ".join(f"{_largest_drop(run['accuracy']):.2f}" for run in runs)
    counts = ", ".join(
        f"{key} {np.mean([run[key] for run in runs]):.0f}"
        for key in ("refused", "shortened", "given_up", "empty")
    )
    start = np.mean([run["accuracy"][0] for run in runs])
    print(f"{name:>24}: from {start:.2f} to {ends}; largest drop {drops}; {counts}")


def _largest_drop(values: list[float]) -> float:
    """From the best accuracy so far down to the worst after it."""
    best = np.maximum.accumulate(values)
    return float((best - np.array(values)).max())


if __name__ == "__main__":
    main()
