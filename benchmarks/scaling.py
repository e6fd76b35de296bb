"""How the cost of our step grows with group size, completion length, batch and model size.

    python -m benchmarks.scaling

One thing is changed at a time; the others stay at 8 completions a prompt, up to 40 tokens, 32
prompts a step and the embedded model. Seconds are the median of a run's steps after the first.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.compare_with_trl import run_side
from benchmarks.sizes import SHAPES, model_of

VARIED: dict[str, list[int]] = {
    "group-size": [4, 8, 16, 32],
    "new-tokens": [10, 20, 40, 80],
    "prompts": [8, 16, 32, 64],
}
NAMES = {
    "group-size": "completions per prompt",
    "new-tokens": "new tokens at most",
    "prompts": "prompts a step",
}


def rows(steps: int, *, quick: bool) -> list[tuple[str, str, dict[str, Any]]]:
    """What was changed, to what, and the steps' metrics."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    common = [f"--steps={steps}"]
    for option, values in VARIED.items():
        for value in values[1:3] if quick else values:
            words = [*common, f"--{option}={value}"]
            found.append((NAMES[option], str(value), _medians(words)))
    with tempfile.TemporaryDirectory() as folder:
        for size in ("0.1M", "0.8M") if quick else SHAPES:
            words = [*common, "--model", model_of(size, Path(folder)), "--prompts=8"]
            found.append(("parameters (8 prompts a step)", size, _medians(words)))
    return found


def _medians(words: list[str]) -> dict[str, Any]:
    side = run_side("bapo", words)
    metrics = side["metrics"]
    named = ("seconds", "seconds_rollout", "seconds_update", "generated_tokens")
    medians = {name: statistics.median(line[name] for line in metrics) for name in named}
    return {**medians, "peak": side["peak"][0]}


def table(found: list[tuple[str, str, dict[str, Any]]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| changed | to | seconds a step | of it rollout | of it update "
        "| microseconds a sampled token | peak memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, value, cost in found:
        a_token = 1e6 * cost["seconds"] / cost["generated_tokens"]
        lines.append(
            f"| {name} | {value} | {cost['seconds']:.2f} | {cost['seconds_rollout']:.2f} "
            f"| {cost['seconds_update']:.2f} | {a_token:.0f} | {cost['peak'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=3, help="steps timed for each row")
    parser.add_argument("--quick", action="store_true", help="fewer rows")
    arguments = parser.parse_args()
    print(table(rows(arguments.steps, quick=arguments.quick)))


if __name__ == "__main__":
    main()
