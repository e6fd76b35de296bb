"""The gate under a destructive setting, and what it costs under a harmless one.

Run from the repository: `python -m benchmarks.destructive_setting --policy POLICY`. Destructive is
a learning rate ten times too high and v = 50; `--setting harmless` has a rate at which the policy
learns well and v = 5. BAPO trains

- `countdown`: the embedded Countdown model, the real path with sampling, verifier and held-out
  prompts (128, four answers each, every ten steps); ten minutes on one quiet core;
- `table`: a row of logits for each prompt, `transformer`: a random one-layer transformer whose
  prompts share their weights. All their answers can be listed, so that the accuracy of every step
  is exact; a minute and four.

Writes docs/figures/SETTING_POLICY.svg and prints what docs/guarantee.md quotes.
"""

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from tests.enumerable import exact_recipe, table_run, transformer_run

from bapo.config import Recipe, TrainingSettings, load_recipe
from bapo.evaluation import evaluate
from bapo.reporting.figures.style import drawing
from bapo.training.preparation import RunParts, prepare
from bapo.training.progress import Silence
from bapo.training.seeds import derived_seed

LEARNING_RATES = {"countdown": 5e-5, "table": 0.05, "transformer": 1e-3}
"""At which the policies learn well; the destructive setting has ten times as much."""

STEPS = {"countdown": 30, "table": 150, "transformer": 150}
PROMPTS = 16
EVALUATE_EVERY = 10

Sections = Mapping[str, Mapping[str, Any]]

REFUSING: Sections = {"adaptation": {"max_tv": 0.3}}
GATE: Sections = {**REFUSING, "objective": {"enforce_bound": True, "trust_region": 0.2}}
STEERED: Sections = {"adaptation": {"adaptive_staleness": True, "target_tv": 0.2}}
VARIANTS: dict[str, tuple[str, tuple[Sections, ...]]] = {
    "ungated": ("#D55E00", ()),
    "max_tv": ("#E69F00", (REFUSING,)),
    "gate": ("#0072B2", (GATE,)),
    "adaptive": ("#CC79A7", (STEERED,)),
    "both": ("#009E73", (GATE, STEERED)),
}


def main() -> None:
    """Trains every variant with every seed, draws and prints."""
    parser = argparse.ArgumentParser(description="The gate under a destructive setting.")
    parser.add_argument("--policy", choices=list(LEARNING_RATES), default="countdown")
    parser.add_argument("--setting", choices=["destructive", "harmless"], default="destructive")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--output", type=Path, help="the figure")
    parser.add_argument("--weight-decay", type=float, default=TrainingSettings().weight_decay)
    parser.add_argument("--steps", type=int, help="30 for countdown, 150 for the others")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    policy, setting = arguments.policy, arguments.setting
    output = arguments.output or Path(f"docs/figures/{setting}_{policy}.svg")
    steps = arguments.steps or STEPS[policy]
    with drawing(10.5, 4.2) as figure:
        accuracy, distance = figure.subplots(1, 2)
        for name in arguments.variants:
            colour = VARIANTS[name][0]
            sections = settings_of(name, policy, setting, arguments.weight_decay)
            runs = [train_once(policy, sections, seed, steps) for seed in range(arguments.seeds)]
            places = np.array(runs[0]["steps"])
            _draw(accuracy, places, [run["accuracy"] for run in runs], colour, name)
            after = np.arange(1, steps + 1)
            _draw(distance, after, [run["tv_policy"] for run in runs], colour, name)
            _print(name, runs)
        kind = "Held-out" if policy == "countdown" else "Exact"
        accuracy.set(title=f"{kind} accuracy, mean and range over seeds", xlabel="step")
        accuracy.set_ylim(0, 1 if policy != "countdown" else None)
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


def settings_of(
    variant: str,
    policy: str,
    setting: str,
    weight_decay: float = TrainingSettings().weight_decay,
) -> dict[str, dict[str, Any]]:
    """The settings of a variant, by section.

    Args:
        variant: A key of `VARIANTS`.
        policy: A key of `LEARNING_RATES`.
        setting: `destructive` or `harmless`.
        weight_decay: AdamW's.
    """
    is_harmless = setting == "harmless"
    rate = LEARNING_RATES[policy] * (1 if is_harmless else 10)
    sections: dict[str, dict[str, Any]] = {
        "adaptation": {"behavior_sync_every": 5 if is_harmless else 50},
        "objective": {"bound_after_update": True},
        "training": {"learning_rate": rate, "weight_decay": weight_decay},
    }
    for change in VARIANTS[variant][1]:
        for section, values in change.items():
            sections[section] = {**sections[section], **values}
    return sections


def train_once(
    policy: str, sections: dict[str, dict[str, Any]], seed: int, steps: int
) -> dict[str, Any]:
    """One run: its accuracy at some steps, and what its metrics say."""
    train = _train_countdown if policy == "countdown" else _train_listed
    places, accuracy, lines = train(policy, sections, seed, steps)
    return {
        "steps": places,
        "accuracy": accuracy,
        "tv_policy": [line["tv_policy"] for line in lines],
        "refused": sum(line["groups_refused"] for line in lines),
        "shortened": sum(line["step_scale"] < 1 for line in lines),
        "given_up": sum(line["step_scale"] == 0 for line in lines),
        "empty": sum(line["tv_policy"] is None for line in lines),
        "seconds": sum(line["seconds"] for line in lines),
    }


def _train_listed(
    policy: str, sections: dict[str, dict[str, Any]], seed: int, steps: int
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """On a policy whose answers can be listed: the exact accuracy of every step."""
    lengths = {"max_new_tokens": 3, "max_prompt_tokens": 8}
    recipe = exact_recipe("bapo", steps=steps, groups=8, rollout=lengths, **sections)
    build = table_run if policy == "table" else transformer_run
    run = build(recipe, prompts=PROMPTS, seed=seed)
    lines = [run.advance().metrics for _ in range(steps)]
    return list(range(steps + 1)), [run.value(version) for version in range(steps + 1)], lines


def _train_countdown(
    policy: str, sections: dict[str, dict[str, Any]], seed: int, steps: int
) -> tuple[list[int], list[float], list[dict[str, Any]]]:
    """On the embedded Countdown model: pass@1 on held-out prompts at some steps."""
    settings = {
        f"{part}.{key}": value for part, one in sections.items() for key, value in one.items()
    }
    settings |= {
        "seed": seed,
        "steps": steps,
        "task.train_size": 1024,
        "training.batch_groups": 16,
        "evaluation.prompts": 128,
    }
    recipe = load_recipe("countdown-demo", [f"{key}={value}" for key, value in settings.items()])
    places, accuracy, lines = [], [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        parts = prepare(recipe, folder, Silence(), stack)
        for step in range(steps + 1):
            if step:
                lines.append(parts.loop.advance().metrics)
            if step % EVALUATE_EVERY == 0 or step == steps:
                places.append(step)
                accuracy.append(_held_out(recipe, parts, step))
    return places, accuracy, lines


def _held_out(recipe: Recipe, parts: RunParts, step: int) -> float:
    """Pass@1 of the policy on the held-out prompts, measured as a run measures it."""
    result = evaluate(
        parts.loop.engine,
        parts.loop.verify,
        parts.data.held_out,
        split="held_out",
        version=parts.policies.current(step + 1),
        samples=recipe.evaluation.samples,
        seed=derived_seed(recipe.seed, "evaluation/held_out"),
        temperature=recipe.evaluation.temperature,
    )
    return result.pass_at_1 or 0.0


def _draw(axes: Axes, steps: Any, runs: list[list[float | None]], colour: str, name: str) -> None:
    values = np.array(runs, dtype=np.float64)
    known = np.isfinite(values).any(axis=0)
    values, steps = values[:, known], steps[known]
    axes.fill_between(
        steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.12, lw=0
    )
    axes.plot(steps, np.nanmean(values, axis=0), color=colour, lw=1.6, label=name)


def _print(name: str, runs: list[dict[str, Any]]) -> None:
    starts, ends, drops = (
        ", ".join(f"{value:.3f}" for value in values)
        for values in (
            [run["accuracy"][0] for run in runs],
            [run["accuracy"][-1] for run in runs],
            [_largest_drop(run["accuracy"]) for run in runs],
        )
    )
    counts = ", ".join(
        f"{key} {np.mean([run[key] for run in runs]):.0f}"
        for key in ("refused", "shortened", "given_up", "empty", "seconds")
    )
    print(f"{name:>24}: from {starts} to {ends}; largest drop {drops}; {counts}", flush=True)


def _largest_drop(values: list[float]) -> float:
    """From the best accuracy so far down to the worst after it."""
    best = np.maximum.accumulate(values)
    return float((best - np.array(values)).max())


if __name__ == "__main__":
    main()
