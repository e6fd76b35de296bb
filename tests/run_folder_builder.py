"""Writes run folders as training does, from a scripted policy.

A prompt has a fixed difficulty and the policy an ability that rises with the steps; every count is
drawn from these with a private generator, so that the numbers of one folder agree with each other
and the same arguments give the same files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bapo.config import resolve_recipe, write_recipe

# How far each algorithm's ability rises, in log-odds.
_GAINS = {"bapo": 1.9, "dapo": 1.6, "grpo": 1.1}


@dataclass(frozen=True)
class Script:
    """The sizes of a scripted run."""

    algorithm: str = "bapo"
    seed: int = 0
    steps: int = 12
    planned_steps: int | None = None
    batch_groups: int = 16
    group_size: int = 8
    held_out: int = 40
    samples: int = 4
    training: int = 40
    evaluate_every: int = 4
    seconds_a_step: float = 3.0
    finished: bool = True
    overrides: tuple[str, ...] = ()


def build_run(folder: Path, script: Script | None = None, **sizes: Any) -> Path:
    """Writes one run folder and returns it; `sizes` are fields of `Script`."""
    script = script or Script(**sizes)
    folder.mkdir(parents=True)
    generator = np.random.default_rng(
        [script.seed, len(script.algorithm), ord(script.algorithm[0])]
    )
    _write_recipe(folder, script)
    metrics, ledger, retired = _training(script, generator)
    _write_lines(folder / "metrics.jsonl", metrics)
    _write_lines(folder / "ledger.jsonl", ledger)
    evaluations = _evaluations(script, metrics, generator)
    _write_lines(folder / "evaluation.jsonl", evaluations)
    _write_lines(folder / "examples.jsonl", _examples(evaluations))
    if script.finished:
        (folder / "summary.json").write_text(
            json.dumps(_summary(script, metrics, evaluations, retired)), encoding="utf-8"
        )
    return folder


def build_comparison(
    folder: Path, algorithms: Sequence[str] = ("bapo", "dapo", "grpo"), seeds: int = 3, **sizes: Any
) -> Path:
    """Writes `folder/<algorithm>/seed-<n>/` for every algorithm and seed, and returns `folder`."""
    for algorithm in algorithms:
        for seed in range(seeds):
            build_run(folder / algorithm / f"seed-{seed}", algorithm=algorithm, seed=seed, **sizes)
    return folder


def rewrite_lines(path: Path, change: Mapping[str, Any]) -> None:
    """Sets fields of every object of a JSON Lines file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    _write_lines(path, [{**record, **change} for record in records])


def _write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _write_recipe(folder: Path, script: Script) -> None:
    recipe = resolve_recipe(
        {
            "algorithm": script.algorithm,
            "model": "embedded:countdown",
            "task": {"name": "countdown", "sizes": [3, 4]},
            "seed": script.seed,
            "steps": script.planned_steps or script.steps,
            "rollout": {"group_size": script.group_size},
            "training": {"batch_groups": script.batch_groups, "learning_rate": 3e-5},
            "evaluation": {"samples": script.samples, "every": script.evaluate_every},
        },
        script.overrides,
    )
    write_recipe(recipe, folder / "recipe.yaml")
    environment = {
        "bapo": "0.1.0",
        "python": "3.11.7",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "device": "cpu",
        "cores": 2,
        "threads": 2,
        "command": ["bapo", "train", "countdown", f"algorithm={script.algorithm}"],
        "seed": script.seed,
        "started": "2026-09-14T10:12:31+00:00",
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")


def _ability(script: Script, step: int) -> float:
    """The policy's gain in log-odds after `step` steps: fast at first, then levelling off."""
    return _GAINS.get(script.algorithm, 1.0) * (1 - np.exp(-2.2 * step / script.steps))


def _chance(difficulty: np.ndarray, ability: float) -> np.ndarray:
    """The chance of a right answer."""
    return 1 / (1 + np.exp(difficulty - ability))


def _training(
    script: Script, generator: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    """metrics.jsonl, ledger.jsonl and the retired prompts of a scripted run."""
    metrics, ledger = [], []
    hard: dict[str, int] = {}
    retired: dict[str, int] = {}
    state = {"reuse": 0.0, "r": 0.05}
    for step in range(1, script.steps + 1):
        records, record = _step(script, step, generator, hard, retired, state)
        ledger += records
        metrics.append(record)
    return metrics, ledger, retired


def _step(
    script: Script,
    step: int,
    generator: np.random.Generator,
    hard: dict[str, int],
    retired: dict[str, int],
    state: dict[str, float],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    wanted, size = script.batch_groups, script.group_size
    buffers = script.algorithm.startswith("bapo")
    rounds = 3 if script.algorithm == "dapo" else 1
    difficulty = generator.normal(3.4, 2.2, wanted * rounds)
    correct = generator.binomial(size, _chance(difficulty, _ability(script, step)))
    all_wrong, all_right = int((correct == 0).sum()), int((correct == size).sum())
    filtered = script.algorithm not in ("grpo", "grpo_delayed")
    informative = len(correct) - all_wrong - all_right if filtered else len(correct)
    fresh = min(informative, wanted)
    ledger = []
    for index, right in enumerate(correct):
        name = f"cd4-{step:03d}-{index:03d}"
        outcome = "all_wrong" if right == 0 else "all_right" if right == size else "trained"
        ledger.append(_fate(step, name, "fresh", outcome, right / size, step - 1))
        if buffers and right / size <= 0.125:
            hard[name] = 0
            ledger.append(_event(step, name, "hard_entered", right / size))
    retried_sampled = retried = 0
    if buffers and step % 5 == 0:
        for name in list(hard):
            retried_sampled += 1
            if generator.random() < 0.22:
                del hard[name]
                retried += 1
                ledger.append(_fate(step, name, "retried", "trained", 0.25, step - 1))
                ledger.append(_event(step, name, "hard_left", 0.25))
                continue
            hard[name] += 1
            ledger.append(_fate(step, name, "retried", "all_wrong", 0.0, step - 1))
            if hard[name] > 1 and len(retired) < 3:
                del hard[name]
                retired[name] = step
                ledger.append(_event(step, name, "hard_retired", 0.0))
        retried = min(retried, wanted - fresh)
    for name in list(hard)[:-wanted]:
        del hard[name]
    reused = int(min(wanted - fresh - retried, state["reuse"] / 3)) if buffers else 0
    state["reuse"] = 0.66 * state["reuse"] + fresh if buffers else 0.0
    state["r"] += 0.13 * (float(correct.mean()) / size - state["r"])
    counts = {
        "fresh": fresh,
        "retried": retried,
        "reused": reused,
        "sampled_fresh": len(correct),
        "sampled_retried": retried_sampled,
        "all_wrong": all_wrong,
        "all_right": all_right,
        "unverified": 0,
        "surplus": max(0, informative - wanted),
        "refused": 0,
    }
    rate = float(correct.mean()) / size
    record = _metrics(script, step, counts, rate, len(hard), generator, state)
    record["prompts_retired"] = len(retired)
    return ledger, record


def _metrics(
    script: Script,
    step: int,
    counts: Mapping[str, int],
    rate: float,
    hard: int,
    generator: np.random.Generator,
    state: Mapping[str, float],
) -> dict[str, Any]:
    rollouts = (counts["sampled_fresh"] + counts["sampled_retried"]) * script.group_size
    length = 21 + 2 * generator.random()
    trained = (counts["fresh"] + counts["retried"] + counts["reused"]) * script.group_size * length
    noise = generator.lognormal(0, 0.08, 8)
    seconds = _seconds(script, step, rollouts, trained, noise)
    delayed = script.algorithm not in ("grpo", "dapo")
    stale = (step - 1) % 5 if delayed else 0
    return {
        "step": step,
        "epoch": step / script.steps,
        "rollouts": rollouts,
        "generated_tokens": int(rollouts * length),
        "forward_tokens": int(trained * 1.6),
        "backward_tokens": int(trained * 1.3),
        "seconds": sum(seconds.values()) * 1.02,
        **{f"seconds_{name}": value for name, value in seconds.items()},
        **{f"groups_{name}": value for name, value in counts.items()},
        **_buffers(script, hard, state),
        "correctness_fresh": rate,
        "correctness_retried": 0.06 + 0.5 * rate if counts["sampled_retried"] else None,
        **_policy(script, counts, stale, noise),
        "entropy": 0.42 * (1 - 0.5 * step / script.steps) * noise[5],
        "kl_behavior": 0.002 * (1 + stale) * noise[4],
        **_bound(counts, stale, generator),
        "grad_norm": 0.45 * noise[3] * noise[2] ** 3,
        "loss": float(generator.normal(0, 0.01)),
        "learning_rate": 3e-5,
        "updates": 2,
        "updates_skipped": 0,
        "step_scale": 1.0,
        "peak_memory_bytes": 800_000_000,
        "verdicts_ok": rollouts,
        "verdicts_invalid": 0,
        "verdicts_timeout": 0,
        "verdicts_error": 0,
        "completion_tokens_mean": length,
        "truncated_share": 0.03 * (1 - step / script.steps / 2) * noise[0],
    }


def _seconds(
    script: Script, step: int, rollouts: int, trained: float, noise: np.ndarray
) -> dict[str, float]:
    """Seconds of each phase; `trained` counts the tokens learned from."""
    share = rollouts / (script.batch_groups * script.group_size)
    seconds = {
        "rollout": 0.31 * share * noise[0],
        "reward": 0.03 * share * noise[1],
        "adaptation": 0.002 * noise[2],
        "proximal": 0.14 * noise[3],
        "update": 0.45 * trained / (script.batch_groups * script.group_size * 22) * noise[4],
        "sync": 0.01 * noise[5],
        "checkpoint": 0.2 if step % 5 == 0 else 0.0,
    }
    return {name: value * script.seconds_a_step for name, value in seconds.items()}


def _buffers(script: Script, hard: int, state: Mapping[str, float]) -> dict[str, Any]:
    buffers = script.algorithm.startswith("bapo")
    return {
        "hard_buffer_size": hard,
        "hard_buffer_evicted": 0,
        "reuse_buffer_size": int(state["reuse"]),
        "reuse_buffer_evicted": 0,
        "buffer_megabytes": 0.02 * int(state["reuse"]),
        "reuse_low": 0.375 * state["r"] if buffers else None,
        "reuse_high": 0.25 + 0.25 * state["r"] if buffers else None,
        "reuse_window": 3,
        "behavior_delay": 5,
        "policy_strength": state["r"] if buffers else None,
        "prompts_retired": 0,
    }


def _policy(
    script: Script, counts: Mapping[str, int], stale: int, noise: np.ndarray
) -> dict[str, Any]:
    """How far the policies are apart, and what follows from it."""
    return {
        "sampler_gap": 1e-6,
        "staleness_mean": stale + 0.6 * counts["reused"] / script.batch_groups,
        "importance_cap": 3.0,
        "importance_weight_mean": 1.0 + 0.01 * stale * noise[6],
        "importance_weight_truncated_share": 0.0008 * stale * noise[6],
        "ratio_clipped_share": 0.012 * noise[7],
    }


def _bound(
    counts: Mapping[str, int], stale: int, generator: np.random.Generator
) -> dict[str, float | None]:
    tv_policy, tv_behavior = 0.05 + 0.02 * stale, 0.02 * stale
    values: dict[str, float | None] = {
        "tv_policy": tv_policy,
        "tv_behavior": tv_behavior,
        "tv_step": tv_policy - tv_behavior,
        "bound_unknown_share": 0.0,
    }
    for source in ("fresh", "retried", "reused"):
        surrogate = 0.1 * generator.lognormal(0, 0.3)
        penalty = 1.7 * tv_policy + tv_behavior
        parts = {
            **{"surrogate": surrogate, "penalty": penalty, "total": surrogate - penalty},
            **{"published": surrogate - 2 * penalty, "factor": 1.7},
        }
        for part, value in parts.items():
            values[f"bound_{part}_{source}"] = value if counts[source] else None
    return values


def _fate(
    step: int, name: str, source: str, outcome: str, rate: float, version: int
) -> dict[str, Any]:
    return {
        "step": step,
        "kind": "group",
        "prompt_id": name,
        "source": source,
        "outcome": outcome,
        "correctness_rate": rate,
        "policy_version": version,
    }


def _event(step: int, name: str, event: str, rate: float) -> dict[str, Any]:
    return {
        "step": step,
        "kind": "buffer",
        "prompt_id": name,
        "event": event,
        "correctness_rate": rate,
    }


def _evaluations(
    script: Script, metrics: Sequence[Mapping[str, Any]], generator: np.random.Generator
) -> list[dict[str, Any]]:
    fixed = np.random.default_rng(7)  # the same prompts for every algorithm and seed
    held_out = fixed.normal(3.4, 2.2, script.held_out)
    training = fixed.normal(3.4, 2.2, script.training)
    evaluations = []
    for step in range(0, script.steps + 1):
        is_last = step == script.steps and script.finished
        if step % script.evaluate_every == 0 or is_last:
            evaluations.append(
                _evaluation(script, step, "held_out", held_out, script.samples, metrics, generator)
            )
        for split in ["training", "training_again"] if step == 0 else ["training"] * is_last:
            if script.training:
                evaluations.append(
                    _evaluation(
                        script, step, split, training, script.group_size, metrics, generator
                    )
                )
    return evaluations


def _evaluation(
    script: Script,
    step: int,
    split: str,
    difficulty: np.ndarray,
    samples: int,
    metrics: Sequence[Mapping[str, Any]],
    generator: np.random.Generator,
) -> dict[str, Any]:
    correct = generator.binomial(samples, _chance(difficulty, _ability(script, step)))
    done = metrics[:step]
    prefix = "held" if split == "held_out" else "train"
    return {
        "step": step,
        "split": split,
        "rollouts": sum(record["rollouts"] for record in done),
        "seconds": sum(record["seconds"] for record in done),
        "tokens": sum(record["generated_tokens"] for record in done),
        "samples": samples,
        "valid_share": 1.0,
        "pass_at_1": float(correct.mean()) / samples,
        "pass_at_k": float((correct > 0).mean()),
        "all_wrong_share": float((correct == 0).mean()),
        "prompts": [
            {
                "id": f"{prefix}-{index:04d}",
                "level": "CD-4" if difficulty[index] > 2.5 else "CD-3",
                "correct": int(right),
                "valid": samples,
            }
            for index, right in enumerate(correct)
        ],
    }


_PROBLEMS = (
    ("3 5 7 2>22\n", "3*5=15,15+7=22", "3+5=8,8*2=16,16+7=23"),
    ("9 4 6 1>30\n", "9-4=5,5*6=30", "9*4=36,36-6=30,30*1=31"),
    ("8 3 2 5>49\n", "8*5=40,3*3=9,40+9=49", "8*3=24,24*2=48,48+5=53"),
    ("11 6 4>26\n", "11*4=44,44-6=38", "6*4=24,24+11=35"),
    ("7 7 3 3>24\n", "7-3=4,7+3=10,10*4=40", "7*3=21,21+3=24"),
    ("12 2 9 5>27\n", "12/2=6,9+5=14,14+6=20", "12*2=24,24+9=33"),
)


def _examples(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Two completions of each of six held-out problems per evaluation; one is hostile text."""
    examples = []
    for evaluation in evaluations:
        if evaluation["split"] != "held_out":
            continue
        for index, (prompt, first, second) in enumerate(_PROBLEMS):
            is_correct = evaluation["step"] > index * 2
            completion = first if is_correct else second
            if index == 5:
                completion = "<script>alert('x')</script>\x1b[31mred\x1b[0m \u202etxet"
                is_correct = False
            examples.append(
                {
                    "step": evaluation["step"],
                    "split": "held_out",
                    "prompt_id": f"held-{index:04d}",
                    "level": "CD-4" if prompt.count(" ") == 3 else "CD-3",
                    "prompt": prompt,
                    "completion": completion,
                    "correct": is_correct,
                    "status": "ok",
                    "detail": "",
                }
            )
    return examples


def _summary(
    script: Script,
    metrics: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    retired: Mapping[str, int],
) -> dict[str, Any]:
    held_out = [e["pass_at_1"] for e in evaluations if e["split"] == "held_out"]
    solved = {
        (e["split"], e["step"]): {p["id"] for p in e["prompts"] if p["correct"]}
        for e in evaluations
        if e["split"] != "held_out"
    }
    names = {p["id"] for e in evaluations if e["split"] == "training" for p in e["prompts"]}
    unsolved = names - solved.get(("training", 0), set())
    return {
        "status": "finished",
        "steps": script.steps,
        "seconds": sum(record["seconds"] for record in metrics),
        "rollouts": sum(record["rollouts"] for record in metrics),
        "held_out_before": held_out[0],
        "held_out_after": held_out[-1],
        "unsolved": len(unsolved),
        "unsolved_solved": len(unsolved & solved.get(("training", script.steps), set())),
        "unsolved_solved_by_base": len(unsolved & solved.get(("training_again", 0), set())),
        **{
            name: sum(record[name] for record in metrics)
            for name in ("updates", "updates_skipped", "groups_sampled_fresh", "groups_unverified")
        },
        "shortfalls": [],
        "suspect_prompts": [
            {"prompt_id": name, "failed_retries": 2, "step": step} for name, step in retired.items()
        ],
    }
