"""Everything that docs/performance.md says, measured in one go and written into it.

    python -m benchmarks.bench            (about 25 minutes on two cores)
    python -m benchmarks.bench --quick    (about 3 minutes; prints, writes nothing)

Each comparison is between processes or calls that take turns, and is given as the median of the
rounds' ratios with their range: seconds change with whatever else the machine does, ratios less.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import compare_with_trl, scaling
from benchmarks.sizes import last_json as read_json
from benchmarks.sizes import model_of, spread

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- bench: written by benchmarks.bench -->", "<!-- bench: end -->"
# Prompts a step and steps timed: larger models take longer for the same ratio.
WORK = {"0.8M": (32, 4), "5M": (16, 2), "30M": (8, 1)}
# Layers, hidden size, heads, prompts of the comparison with `generate`.
SAMPLED = {"0.8M": (4, 128, 4, 32), "5M": (6, 256, 8, 32), "30M": (10, 512, 8, 16)}


def against_trl(sizes: list[str], rounds: int, threads: int, folder: Path) -> Iterator[str]:
    """Whole steps and memory of both sides."""
    yield "### A training step against TRL 1.16\n"
    yield (
        "| parameters | prompts a step | whole step, TRL / bapo | generation in it, TRL / bapo "
        "| peak memory, TRL / bapo | above the start, TRL / bapo | adaptation, share of our step |"
    )
    yield "|---|---|---|---|---|---|---|"
    for size in sizes:
        prompts, steps = WORK[size]
        words = ["--model", model_of(size, folder), f"--prompts={prompts}", f"--steps={steps}"]
        words.append(f"--threads={threads}")
        pairs = compare_with_trl.compare(words, rounds)
        cells = [
            spread([compare_with_trl.ratio(*pair, name) for pair in pairs])
            for name in ("seconds", "rollout_seconds", "peak", "above")
        ]
        share = sum(sum(ours["adaptation"]) for ours, _ in pairs) / sum(
            sum(ours["seconds"]) for ours, _ in pairs
        )
        yield f"| {size} | {prompts} | {' | '.join(cells)} | {100 * share:.2f} % |"
    yield ""


def against_generate(sizes: list[str], rounds: int, threads: int) -> Iterator[str]:
    """Tokens a second of the sampler and of `generate`."""
    yield "### The sampler against `generate`\n"
    yield "| parameters | prompts x completions | tokens a second, sampler / generate |"
    yield "|---|---|---|"
    for size in sizes:
        layers, hidden, heads, prompts = SAMPLED[size]
        found = measured(
            "benchmarks.sampler_vs_generate",
            f"--layers={layers}",
            f"--hidden={hidden}",
            f"--heads={heads}",
            f"--groups={prompts}",
            f"--repeats={rounds}",
            f"--threads={threads}",
            "--json",
        )
        yield f"| {size} | {prompts} x 8 | {spread(found['ratios'])} |"
    yield ""


def against_floor(sizes: list[str], threads: int) -> Iterator[str]:
    """Each phase's least and real time."""
    yield "### Each phase against the floor\n"
    yield (
        "| parameters | matrix products, GFLOP/s | reading state and keys, GB/s "
        "| smallest operation, us | phase | least, s | real, s | share |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for size in sizes:
        prompts, steps = WORK[size]
        found = measured(
            "benchmarks.floor",
            f"--size={size}",
            f"--prompts={prompts}",
            f"--steps={steps}",
            f"--threads={threads}",
        )
        slowest, fastest = found["gigaflops"][0], found["gigaflops"][-1]
        machine = (
            f"{size} | {slowest:.0f} to {fastest:.0f} "
            f"| {found['gigabytes'][0]:.1f} and {found['gigabytes'][1]:.1f} "
            f"| {found['operation_microseconds']:.2f}"
        )
        for phase, (least, real) in found["phases"].items():
            share = f"{100 * least / real:.0f} %" if least else "-"
            yield f"| {machine} | {phase} | {least:.3f} | {real:.3f} | {share} |"
    yield ""


def growth(*, quick: bool) -> Iterator[str]:
    """How cost grows with the size of the work, and of the adaptation's buffers."""
    yield "### How cost grows\n"
    yield scaling.table(scaling.rows(2, quick=quick))
    yield ""
    yield "### Adaptation against the number of prompts and of buffered groups\n"
    words = ["--prompts", "1000", "--groups", "100"] if quick else []
    text = output("benchmarks.adaptation_scaling", *words)
    yield "\n".join(f"    {line}" for line in text.strip().splitlines())
    yield ""


def output(module: str, *words: str) -> str:
    """What a benchmark writes, in a process of its own."""
    command = [sys.executable, "-m", module, *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{module} failed:\n{result.stderr[-3000:]}")
    return result.stdout


def measured(module: str, *words: str) -> dict[str, Any]:
    """The object in the last line that a benchmark writes."""
    return read_json(output(module, *words))


def conditions(threads: int) -> str:
    """On what, and how busy it was."""
    load = os.getloadavg()
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores ({platform.machine()}), "
        f"{threads or os.cpu_count()} threads; load average over the last fifteen minutes "
        f"{load[2]:.1f}.\n"
    )


def write(text: str, page: Path) -> None:
    """Puts the tables between the page's markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{page} has no lines '{BEGIN}' and '{END}'; put them where the tables belong.")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measures all tables, prints them, and writes them into the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="the smallest model alone, one round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each comparison")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0: as many as cores")
    arguments = parser.parse_args()
    quick, threads = arguments.quick, arguments.threads
    sizes = ["0.8M"] if quick else list(WORK)
    rounds = 1 if quick else arguments.rounds
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in (
            against_trl(sizes, rounds, threads, Path(folder)),
            against_generate(sizes, rounds, threads),
            against_floor(sizes, threads),
            growth(quick=quick),
        ):
            for line in part:
                print(line, flush=True)
                lines.append(line)
    if not quick:
        write("\n".join([conditions(threads), *lines]), PAGE)
        print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
