"""Trains the domain recipes with the real command line and writes curves and table into docs/.

Run from the repository: `python -m benchmarks.domains math countdown vision`. Each domain is
`bapo train recipes/DOMAIN.yaml`, one after another, in a process of its own whose wall-clock and
processor time (verifier processes included) are measured. Writes docs/figures/domain_DOMAIN.svg
and the domain's row of the table in docs/results.md. A run that is finished under --output is not
trained again; one that was cut short goes on, and its times are then not known.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bapo.reporting.figures.style import BASE, drawing, percent_axis, step_axis
from bapo.reporting.measures import HeldOutPoint, held_out_points
from bapo.reporting.runs import RunRecord, read_run

DOCS = Path("docs")
TASK_SEEDS = {"math": 7, "countdown": 7, "vision": 13}
"""Of the problems: those that no recipe and no base was chosen on."""

COLOURS = {"math": "#0072B2", "countdown": "#E69F00", "vision": "#009E73"}
BEGIN, END = "<!-- domains: written by benchmarks.domains -->", "<!-- domains: end -->"
HEAD = (
    "| recipe | task | held-out pass@1, base | after | times the base | steps | completions "
    "| base fails all of 8 | of these solved after (by the base asked again) | minutes "
    "| processor minutes |\n" + "|---" * 11 + "|\n"
)


def main() -> None:
    """Trains, draws and writes."""
    parser = argparse.ArgumentParser(description="Results of the domain recipes.")
    parser.add_argument("domains", nargs="+", choices=list(COLOURS))
    parser.add_argument("--output", type=Path, default=Path("runs/domains"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for domain in arguments.domains:
        folder = arguments.output / domain / f"seed-{arguments.seed}"
        train(domain, folder, arguments.seed)
        run = read_run(folder)
        figure = DOCS / "figures" / f"domain_{domain}.svg"
        draw(domain, run, figure)
        write_row(DOCS / "results.md", domain, row(domain, run, _cost_file(folder)))
        print(f"{domain}: wrote {figure} and its row in {DOCS / 'results.md'}")


def train(domain: str, folder: Path, seed: int) -> None:
    """One run by the command line, unless it is finished; its cost goes beside the run folder."""
    if (folder / "summary.json").is_file():
        return
    begun = (folder / "recipe.yaml").is_file()
    command = [sys.executable, "-m", "bapo", "train", f"recipes/{domain}.yaml"]
    command += [f"seed={seed}", f"task.seed={TASK_SEEDS[domain]}", "--output", str(folder)]
    command += ["--resume"] if begun else []
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
    if not begun:
        cost = {"wall": time.monotonic() - start, "processor": usage.ru_utime + usage.ru_stime}
        _cost_file(folder).write_text(json.dumps(cost), encoding="utf-8")


def _cost_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".cost.json")


def draw(domain: str, run: RunRecord, output: Path) -> None:
    """Held-out pass@1 over the steps with its 95 % interval over prompts; the base as a line."""
    points = held_out_points(run)
    steps = [point.step for point in points]
    colour = COLOURS[domain]
    with drawing(6.4, 3.4) as figure:
        axes = figure.subplots()
        known = [point for point in points if point.interval is not None]
        axes.fill_between(
            [point.step for point in known],
            [point.interval.low for point in known if point.interval],
            [point.interval.high for point in known if point.interval],
            color=colour,
            alpha=0.14,
            lw=0,
        )
        axes.plot(steps, [point.pass_at_1 for point in points], color=colour, marker="o")
        axes.axhline(points[0].pass_at_1, color=BASE, lw=1.3, ls=(0, (4, 3)))
        axes.annotate(
            "base",
            (steps[-1], points[0].pass_at_1),
            (0, 4),
            color=BASE,
            ha="right",
            textcoords="offset points",
        )
        axes.set(title=f"recipes/{domain}.yaml", ylabel="held-out pass@1", xlim=(0, None))
        step_axis(axes)
        percent_axis(axes)
        axes.set_ylim(0, 1.1 * max(point.interval.high for point in known if point.interval))
        output.parent.mkdir(parents=True, exist_ok=True)
        clean: dict[str, Any] = {"Date": None, "Creator": None}
        figure.savefig(output, format="svg", facecolor="white", metadata=clean)


def row(domain: str, run: RunRecord, cost_file: Path) -> str:
    """The domain's row of the table."""
    summary = run.summary or {}
    points = held_out_points(run)
    minutes = ("?", "?")
    if cost_file.is_file():
        cost = json.loads(cost_file.read_text(encoding="utf-8"))
        minutes = (f"{cost['wall'] / 60:.1f}", f"{cost['processor'] / 60:.1f}")
    probed = next(one for one in run.evaluations if one["split"] == "training")
    task = run.recipe["task"]
    cells = [
        f"`{domain}`",
        f"`{task['name']}`, {points[0].prompts} problems x {points[0].samples} answers",
        _accuracy(points[0]),
        _accuracy(points[-1]),
        f"{points[-1].pass_at_1 / points[0].pass_at_1:.1f}",
        f"{points[-1].step:,}",
        f"{summary['rollouts']:,}",
        f"{summary['unsolved']} of {len(probed['prompts'])}",
        f"{summary['unsolved_solved']} ({summary['unsolved_solved_by_base']})",
        *minutes,
    ]
    return "| " + " | ".join(cells) + " |"


def _accuracy(point: HeldOutPoint) -> str:
    text = f"{100 * point.pass_at_1:.1f} %"
    if point.interval is not None:
        text += f" ({100 * point.interval.low:.1f} to {100 * point.interval.high:.1f})"
    return text


def write_row(page: Path, domain: str, line: str) -> None:
    """Puts row and curve between the two marks, in the order of `COLOURS`."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", table, re.MULTILINE)}
    rows[domain] = line
    there = [name for name in COLOURS if name in rows]
    body = "\n".join(rows[name] for name in there)
    curves = "\n\n".join(f"![{name}](figures/domain_{name}.svg)" for name in there)
    table = f"{HEAD}{body}\n\n{curves}"
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
