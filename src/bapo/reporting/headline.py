"""The numbers at the top of the report and the table that compares variants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bapo.reporting.figures.unsolved import solved_share
from bapo.reporting.intervals import Interval
from bapo.reporting.measures import (
    HeldOutPoint,
    before_and_after,
    held_out_points,
    held_out_ratio_interval,
)
from bapo.reporting.text import NOT_MEASURED, count, minutes, percent, percent_range
from bapo.reporting.variants import Variant


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the headline.

    Attributes:
        label: What it is.
        value: The number.
        detail: Its uncertainty or its control; may be empty.
    """

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Held-out accuracy of one variant, over those of its seeds that were evaluated.

    Attributes:
        before: The base's pass@1, mean over seeds; NaN if not measured.
        before_spread: Lowest to highest seed; with one seed the 95 % interval over prompts.
        after: The newest pass@1 of a trained policy.
        after_spread: Its spread.
        ratio: after / before; NaN if either is missing or the base has nothing right.
        ratio_spread: Lowest to highest seed; with one seed the 95 % interval over prompts.
        seeds: Seeds with both evaluations.
        prompts: Held-out prompts of each.
        step: The step of the newest evaluation, the smallest over the seeds; 0 if there is none.
    """

    before: float
    before_spread: Interval | None
    after: float
    after_spread: Interval | None
    ratio: float
    ratio_spread: Interval | None
    seeds: int
    prompts: int
    step: int


def held_out_outcome(variant: Variant) -> Outcome:
    """Held-out accuracy of a variant before and after training."""
    pairs = [before_and_after(run) for run in variant.runs]
    befores = [before for before, _ in pairs if before]
    afters = [after for _, after in pairs if after]
    both = [(before, after) for before, after in pairs if before and after]
    ratios = [after.pass_at_1 / before.pass_at_1 for before, after in both if before.pass_at_1 > 0]
    before, after = _mean_accuracy(befores), _mean_accuracy(afters)
    return Outcome(
        before=before,
        before_spread=_spread(befores),
        after=after,
        after_spread=_spread(afters),
        ratio=after / before if before > 0 else math.nan,
        ratio_spread=held_out_ratio_interval(variant.runs[0])
        if not variant.has_seeds
        else _range(ratios),
        seeds=len(both),
        prompts=max((point.prompts for point in afters or befores), default=0),
        step=min((point.step for point in afters), default=0),
    )


def _mean_accuracy(points: Sequence[HeldOutPoint]) -> float:
    return float(np.mean([point.pass_at_1 for point in points])) if points else math.nan


def _spread(points: Sequence[HeldOutPoint]) -> Interval | None:
    if len(points) == 1:
        return points[0].interval
    return _range([point.pass_at_1 for point in points])


def _range(values: Sequence[float]) -> Interval | None:
    return Interval(min(values), max(values)) if len(values) > 1 else None


def spread_name(variant: Variant) -> str:
    """What the spreads of a variant are, in words."""
    return f"{len(variant.runs)} seeds" if variant.has_seeds else "95 % CI"


def tiles(variant: Variant) -> list[Tile]:
    """The headline's numbers besides the accuracy; what was not measured is not among them."""
    outcome = held_out_outcome(variant)
    shown: list[Tile] = []
    if not math.isnan(outcome.ratio):
        spread = outcome.ratio_spread
        detail = f"{spread_name(variant)}: {spread.low:.2f} to {spread.high:.2f}" if spread else ""
        shown.append(Tile("times the base's accuracy", f"{outcome.ratio:.2f}×", detail))
    samples, after = _pass_at_k(variant, trained=True)
    if samples > 1:
        before = _pass_at_k(variant, trained=False)[1]
        base = "" if math.isnan(before) else f"the base: {percent(before)}"
        shown.append(Tile(f"held-out pass@{samples}", percent(after), base))
    solved = solved_share(variant)
    if solved is not None:
        # A gain without its control would count luck as learning, so they stand together.
        control = (
            f"the base, asked again: {percent(solved.control)}"
            if not math.isnan(solved.control)
            else "the base was not asked again"
        )
        shown.append(
            Tile(
                "of the always-failed training problems now solved", percent(solved.share), control
            )
        )
    rollouts = mean_total(variant, "rollouts")
    if not math.isnan(rollouts):
        tokens = mean_total(variant, "generated_tokens")
        detail = "" if math.isnan(tokens) else f"{count(tokens)} tokens generated"
        shown.append(Tile("rollouts", count(rollouts), detail))
    seconds = mean_total(variant, "seconds")
    if not math.isnan(seconds):
        detail = f"{_steps(variant)}, evaluation not counted"
        shown.append(Tile("of training", minutes(seconds), detail))
    return shown


def _pass_at_k(variant: Variant, *, trained: bool) -> tuple[int, float]:
    """K, and the mean over the seeds of pass@K; 0 and NaN where none has it.

    Args:
        variant: The runs.
        trained: Of the newest trained policy, not of the base.
    """
    points = [before_and_after(run)[trained] for run in variant.runs]
    known = [point for point in points if point and not math.isnan(point.pass_at_k)]
    if not known:
        return 0, math.nan
    return known[0].samples, float(np.mean([point.pass_at_k for point in known]))


def _steps(variant: Variant) -> str:
    """The training steps of a variant's runs, in words."""
    steps = [run.steps_done for run in variant.runs]
    if min(steps) != max(steps):
        return f"{min(steps)} to {max(steps)} steps"
    return "1 step" if steps[0] == 1 else f"{steps[0]} steps"


def mean_total(variant: Variant, name: str) -> float:
    """The sum of a metric over a run, the mean of the seeds that have it; NaN if none has."""
    totals = [total for run in variant.runs if not math.isnan(total := run.total(name))]
    return float(np.mean(totals)) if totals else math.nan


def accuracy_within(variant: Variant, rollouts: float) -> float:
    """Mean pass@1 of the last evaluation that each seed made within `rollouts` rollouts."""
    reached = [
        [point for point in held_out_points(run) if point.rollouts <= rollouts]
        for run in variant.runs
    ]
    return _mean_accuracy([points[-1] for points in reached if points])


def comparison_rows(
    variants: Sequence[Variant],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The comparison as a table, best accuracy first: the head and the rows."""
    budget = common_budget(variants)
    outcomes = {variant.label: held_out_outcome(variant) for variant in variants}
    ranked = sorted(variants, key=lambda variant: -np.nan_to_num(outcomes[variant.label].after))
    columns = [_comparison_cells(variant, outcomes[variant.label], budget) for variant in ranked]
    names = dict.fromkeys(name for cells in columns for name in cells)
    if len({len(variant.runs) for variant in variants}) == 1:
        del names["seeds"]
    rows = [tuple(cells.get(name, NOT_MEASURED) for name in names) for cells in columns]
    return tuple(names), rows


def _comparison_cells(variant: Variant, outcome: Outcome, budget: float) -> dict[str, str]:
    """One row of the comparison, by the name of its column."""
    solved, spread = solved_share(variant), outcome.after_spread
    cells = {
        "algorithm": variant.label,
        "seeds": str(len(variant.runs)),
        "base": percent(outcome.before),
        "after": percent(outcome.after),
        "spread": percent_range(spread.low, spread.high) if spread else NOT_MEASURED,
        "ratio": NOT_MEASURED if math.isnan(outcome.ratio) else f"{outcome.ratio:.2f}×",
    }
    if not math.isnan(budget):
        cells[f"within {count(budget)} rollouts"] = percent(accuracy_within(variant, budget))
    samples, share = _pass_at_k(variant, trained=True)
    if samples:
        cells[f"pass@{samples} after"] = percent(share)
    return cells | {
        "unsolved solved": percent(solved.share) if solved else NOT_MEASURED,
        "by base again": percent(solved.control) if solved else NOT_MEASURED,
        "rollouts": count(mean_total(variant, "rollouts")),
        "time": minutes(mean_total(variant, "seconds")),
    }


def common_budget(variants: Sequence[Variant]) -> float:
    """Rollouts at the last evaluation of the run that used fewest; NaN for a single variant."""
    ends = [
        points[-1].rollouts
        for variant in variants
        for run in variant.runs
        if (points := held_out_points(run)) and points[-1].step > 0
    ]
    known = [end for end in ends if not math.isnan(end)]
    return min(known) if known and len(variants) > 1 else math.nan


def verdict(variants: Sequence[Variant]) -> str:
    """Which variant ended highest, and whether the seeds tell it from the next, in words."""
    outcomes = [(variant, held_out_outcome(variant)) for variant in variants]
    measured = [
        (variant, outcome) for variant, outcome in outcomes if not math.isnan(outcome.after)
    ]
    if len(measured) < 2:
        return ""
    measured.sort(key=lambda pair: -pair[1].after)
    (first, best), (second, next_best) = measured[:2]
    if percent(best.after) == percent(next_best.after):
        return f"{first.label} and {second.label} ended level with {percent(best.after)}."
    sentence = (
        f"{first.label} ended highest with {percent(best.after)}; "
        f"next is {second.label} with {percent(next_best.after)}."
    )
    if not (first.has_seeds and second.has_seeds):
        return f"{sentence} With one seed each, the order may be chance."
    spreads = best.after_spread, next_best.after_spread
    if spreads[0] is None or spreads[1] is None:
        return f"{sentence} Too few seeds were evaluated to tell them apart."
    if spreads[0].low > spreads[1].high:
        return f"{sentence} Every seed of {first.label} ended above every seed of {second.label}."
    return f"{sentence} Their seeds overlap, so the order may be chance."
