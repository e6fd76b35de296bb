"""What a reader must know to trust the report: runs, differing settings, limits of the numbers."""

from collections.abc import Sequence

from bapo.reporting.measures import before_and_after, held_out_points, unsolved_solved
from bapo.reporting.runs import RunRecord
from bapo.reporting.text import NOT_MEASURED, count, minutes, number, percent
from bapo.reporting.variants import Variant, differing_settings, flat_settings

_MOST_SETTINGS = 40


def run_rows(variants: Sequence[Variant]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """One row per run: the head and the rows."""
    head = (
        "run",
        "algorithm",
        "seed",
        "status",
        "steps",
        "before",
        "after",
        "rollouts",
        "time",
        "device",
    )
    rows = [_run_row(variant, run) for variant in variants for run in variant.runs]
    return head, rows


def _run_row(variant: Variant, run: RunRecord) -> tuple[str, ...]:
    before, after = before_and_after(run)
    return (
        "/".join(run.path.parts[-2:]),
        variant.label,
        run.seed,
        status_of(run),
        f"{run.steps_done} of {run.recipe.get('steps', '?')}",
        percent(before.pass_at_1) if before else NOT_MEASURED,
        percent(after.pass_at_1) if after else NOT_MEASURED,
        count(run.total("rollouts")),
        minutes(run.total("seconds")),
        str(run.environment.get("device", NOT_MEASURED)),
    )


def status_of(run: RunRecord) -> str:
    """What the run says of its end, or that it has not ended; and whether it was resumed."""
    status = "not ended" if run.summary is None else str(run.summary.get("status", "ended"))
    if run.summary is not None and run.summary.get("updates") == 0:
        status += ", without any update"
    resumed = run.environment.get("resumed")
    places = (
        [f"{number(one, 'step'):g}" for one in resumed if isinstance(one, dict)]
        if isinstance(resumed, list)
        else []
    )
    return f"{status}, resumed after step {', '.join(places)}" if places else status


def setting_rows(variants: Sequence[Variant]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The settings that are not the same in all variants, a column per variant."""
    flats = [flat_settings(variant.runs[0].recipe) for variant in variants]
    names = [name for name in differing_settings(flats) if name not in ("algorithm", "seed")]
    rows = [(name, *(flat.get(name, NOT_MEASURED) for flat in flats)) for name in names]
    return ("setting", *(variant.label for variant in variants)), rows[:_MOST_SETTINGS]


def honest_notes(variants: Sequence[Variant]) -> list[str]:
    """Sentences on what the numbers are and what they cannot show."""
    notes = [_evaluation_note(variants)]
    runs = [run for variant in variants for run in variant.runs]
    seeds = {variant.label: len(variant.runs) for variant in variants}
    if len(set(seeds.values())) == 1:
        several = next(iter(seeds.values()))
        notes.append(
            "One seed each: differences between runs may be chance."
            if several == 1
            else f"{several} seeds each. With so few, spreads are shown and no test is made."
        )
    else:
        each = ", ".join(f"{label} {number_of}" for label, number_of in seeds.items())
        notes.append(f"The number of seeds differs: {each}.")
    unfinished = [run for run in runs if run.summary is None]
    if unfinished:
        notes.append(f"{len(unfinished)} of {len(runs)} runs had not ended when this was made.")
    unsolved = [found.unsolved for run in runs if (found := unsolved_solved(run))]
    if unsolved:
        low, high = min(unsolved), max(unsolved)
        size = str(low) if low == high else f"{low} to {high}"
        notes.append(f"Training problems that the base always failed: {size} in a run's sample.")
    evicted = sum(number_of for run in runs if (number_of := run.total("reuse_buffer_evicted")) > 0)
    if evicted:
        notes.append(
            f"'adaptation.max_buffer_megabytes' made {count(evicted)} groups leave the reuse "
            "buffer before their time: what was reused depends on that limit."
        )
    tasks = {str(run.setting("task", "name")) for run in runs}
    if len(tasks) > 1:
        notes.append(
            f"The runs are of different tasks ({', '.join(sorted(tasks))}), so their accuracies "
            "do not compare."
        )
    return [note for note in notes if note]


def _evaluation_note(variants: Sequence[Variant]) -> str:
    points = [
        point for variant in variants for run in variant.runs for point in held_out_points(run)
    ]
    if not points:
        return (
            "No held-out evaluation has been made: nothing here says whether the policy got better."
        )
    prompts = {point.prompts for point in points if point.prompts}
    samples = {point.samples for point in points if point.samples > 0}
    if not prompts or not samples:
        return "Accuracy is pass@1, the mean share of right answers, on held-out problems."
    temperatures = {
        number({"t": run.setting("evaluation", "temperature")}, "t")
        for variant in variants
        for run in variant.runs
    }
    at = f" at temperature {next(iter(temperatures)):g}" if len(temperatures) == 1 else ""
    return (
        f"Accuracy is pass@1, the mean share of right answers, on {_or(prompts)} held-out "
        f"problems with {_or(samples)} sampled answers each{at}. Confidence intervals take the "
        "problem as the unit and hold for one run; they do not cover what another seed would "
        "have given."
    )


def _or(values: set[int]) -> str:
    return " or ".join(str(value) for value in sorted(values))
