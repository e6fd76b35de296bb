"""The report: one self-contained HTML page.

It needs no network and no script: images are inside the page, fonts are the reader's own, and a
content security policy forbids everything else. What was not measured is left out or shown as a
dash, never as a number.
"""

import contextlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from bapo.errors import RunFolderError
from bapo.reporting.account_tables import verifier_table
from bapo.reporting.examples import choose_examples, examples_html
from bapo.reporting.figures import (
    BOUND_CAPTION,
    Look,
    Picture,
    accuracy_figure,
    batch_figure,
    cost_figure,
    difficulty_figure,
    guarantee_figure,
    health_figure,
    looks,
    unsolved_figure,
)
from bapo.reporting.figures.series import metric_over_seeds
from bapo.reporting.headline import (
    Outcome,
    comparison_rows,
    held_out_outcome,
    spread_name,
    tiles,
    verdict,
)
from bapo.reporting.measures import accuracy_by_level, pooled, trained_movement
from bapo.reporting.notes import honest_notes, run_rows, setting_rows
from bapo.reporting.runs import find_runs
from bapo.reporting.text import html_text, percent, percent_range
from bapo.reporting.variants import Variant, group_runs

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(paths: Sequence[Path], output: Path) -> Path:
    """Writes the report of all runs at or under the given paths.

    Args:
        paths: Run folders, or folders of them. Runs that differ in nothing but their seed are shown
            together.
        output: The HTML file; in a folder that exists already, `report.html` in it. Missing folders
            are made.

    Returns:
        The file written. It appears whole or not at all.

    Raises:
        RunFolderError: There is no run, a run cannot be read, or the report cannot be written.
    """
    variants = group_runs(find_runs(paths))
    target = output / "report.html" if output.is_dir() else output
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target, render_page(variants))
    except OSError as error:
        raise RunFolderError(
            f"The report '{target}' cannot be written: {error.strerror or error}."
        ) from None
    return target


def _write_whole(target: Path, page: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def render_page(variants: Sequence[Variant]) -> str:
    """The whole page as HTML."""
    styles = looks(variants)
    title = _title(variants)
    sections = [
        _comparison_section(variants, styles),
        _figure_section(
            "Accuracy on held-out problems",
            accuracy_figure(variants, styles),
            _accuracy_caption(variants),
        ),
        _level_section(variants),
        _figure_section(
            "What each batch was made of", batch_figure(variants), _batch_caption(variants)
        ),
        _figure_section(
            "How the training problems moved",
            difficulty_figure(variants),
            _difficulty_caption(variants),
        ),
        _figure_section(
            "Problems the base always failed",
            unsolved_figure(variants, styles),
            _unsolved_caption(variants),
        ),
        _examples_section(variants),
        _figure_section("What it cost", cost_figure(variants), _COST_CAPTION),
        _figure_section(
            "The bound, and what was measured", guarantee_figure(variants, styles), BOUND_CAPTION
        ),
        _figure_section(
            "Training health", health_figure(variants, styles), _health_caption(variants)
        ),
        _verifier_section(variants),
        _runs_section(variants),
    ]
    style = resources.files("bapo.reporting").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1>\n{_lead(variants)}</header>\n{_hero(variants)}\n"
        + "\n".join(section for section in sections if section)
        + "\n<footer>Made by <code>bapo report</code> from the run folders named above.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _title(variants: Sequence[Variant]) -> str:
    task = variants[0].runs[0].setting("task", "name")
    on = f" on {html_text(task)}" if task else ""
    if len(variants) == 1:
        return f"{html_text(variants[0].label)}{on}"
    if len(variants) <= 4:
        return f"{' · '.join(html_text(variant.label) for variant in variants)}{on}"
    return f"{len(variants)} algorithms{on}"


def _lead(variants: Sequence[Variant]) -> str:
    run = variants[0].runs[0]
    model = run.setting("model", "path")
    parts = [f"model {html_text(model)}"] if model else []
    runs = sum(len(variant.runs) for variant in variants)
    parts.append("one run" if runs == 1 else f"{runs} runs")
    device, cores = run.environment.get("device"), run.environment.get("cores")
    if device:
        parts.append(html_text(device) + (f", {html_text(cores)} cores" if cores else ""))
    if runs == 1 and (started := run.environment.get("started")):
        parts.append(f"started {html_text(str(started)[:16].replace('T', ' '))}")
    return f'<p class="lead">{" · ".join(parts)}</p>'


def _hero(variants: Sequence[Variant]) -> str:
    focus = variants[0]
    outcome = held_out_outcome(focus)
    name = f"{html_text(focus.label)}: " if len(variants) > 1 else ""
    jump = [f'<span class="from">{percent(outcome.before)}</span>'] if outcome.before >= 0 else []
    if outcome.after >= 0:
        jump += ['<span class="arrow" aria-label="to">→</span>'] if jump else []
        jump.append(f'<span class="to">{percent(outcome.after)}</span>')
    left = (
        f'<div><div class="label">{name}held-out pass@1</div>'
        f'<div class="jump">{"".join(jump)}</div>'
        f'<div class="detail">{"<br>".join(_hero_details(focus, outcome))}</div></div>'
    )
    right = "".join(
        f'<div class="tile"><div class="value">{html_text(tile.value)}</div>'
        f'<div class="label">{html_text(tile.label)}</div>'
        f'<div class="detail">{html_text(tile.detail)}</div></div>'
        for tile in tiles(focus)
    )
    last = verdict(variants)
    sentence = f'<p class="verdict">{html_text(last)}</p>' if last else ""
    return f'<div class="hero">{left}<div class="tiles">{right}</div>{sentence}</div>'


def _hero_details(variant: Variant, outcome: Outcome) -> list[str]:
    """Lines below the headline's accuracy: its spread and what it was measured on."""
    spreads = [
        f"{who} {percent_range(spread.low, spread.high)}"
        for who, spread in (("before", outcome.before_spread), ("after", outcome.after_spread))
        if spread is not None
    ]
    lines = [f"{spread_name(variant)}: {'; '.join(spreads)}"] if spreads else []
    problems = f"{outcome.prompts} problems" if outcome.prompts else ""
    when = f"after step {outcome.step}" if outcome.step else "not evaluated after training yet"
    return [*lines, ", ".join(part for part in (problems, when) if part)]


def _figure_section(title: str, image: Picture | None, caption: str) -> str:
    if image is None:
        return ""
    return (
        f'<section><h2>{title}</h2><p class="caption">{caption}</p><figure>'
        f'<img src="{image.uri}" alt="{html_text(image.alternative)}" width="{image.width}" '
        f'height="{image.height}"></figure></section>'
    )


def table_html(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    kind: str = "",
    marks: Mapping[str, str] | None = None,
) -> str:
    """A table; `marks` gives a colour for the rows whose first cell is its key."""
    cells = "".join(f'<th scope="col">{html_text(name)}</th>' for name in head)
    lines = []
    for row in rows:
        colour = (marks or {}).get(row[0])
        swatch = f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
        rest = "".join(
            f"<td{' class=text' if len(cell) > 30 else ''}>{html_text(cell)}</td>"
            for cell in row[1:]
        )
        first = ' class="marked"' if colour else ""
        lines.append(f"<tr><td{first}>{swatch}{html_text(row[0])}</td>{rest}</tr>")
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _comparison_section(variants: Sequence[Variant], styles: Mapping[str, Look]) -> str:
    if len(variants) < 2:
        return ""
    head, rows = comparison_rows(variants)
    marks = {label: look.colour for label, look in styles.items()}
    return (
        "<section><h2>Side by side</h2><p class='caption'>Best final accuracy first. Every number "
        "is the mean over the seeds; the spread is the lowest to the highest seed, or with one "
        "seed the 95 % confidence interval over problems. The column of equal rollouts takes the "
        "last evaluation made within the budget of the cheapest run."
        f"</p>{table_html(head, rows, marks=marks)}</section>"
    )


def _level_section(variants: Sequence[Variant]) -> str:
    """Held-out accuracy by the task's labels: the base, then every variant."""
    everything = accuracy_by_level([run for variant in variants for run in variant.runs])
    if len(everything) < 2:
        return ""
    after = {
        variant.label: {entry.level: entry.after for entry in accuracy_by_level(variant.runs)}
        for variant in variants
    }
    rows = [
        (
            entry.level or "no label",
            str(entry.prompts),
            percent(entry.before),
            *(percent(levels.get(entry.level, math.nan)) for levels in after.values()),
        )
        for entry in everything
    ]
    head = ("level", "problems", "base", *(after if len(variants) > 1 else ("after",)))
    return (
        "<section><h2>By the task's own levels</h2><p class='caption'>Where the gain comes from: "
        "held-out pass@1 for each label that the task gives its problems, pooled over the seeds."
        f"</p>{table_html(head, rows)}</section>"
    )


def _examples_section(variants: Sequence[Variant]) -> str:
    run = variants[0].runs[0]
    examples = choose_examples(run)
    if not examples:
        return ""
    whose = f"{html_text(variants[0].label)}, seed {html_text(run.seed)}"
    return (
        f"<section><h2>What it writes</h2><p class='caption'>Completions of {whose}, as sampled: "
        "up to three right and three wrong, first those that the base got wrong. They are picked "
        "to show both kinds, so their number says nothing about accuracy. Control characters are "
        "written out.</p>"
        f"{examples_html(examples)}</section>"
    )


def _accuracy_caption(variants: Sequence[Variant]) -> str:
    bands = (
        "The line is the mean over seeds, the band goes from the lowest to the highest seed, "
        "thin lines are the seeds."
        if any(variant.has_seeds for variant in variants)
        else "The band is the 95&nbsp;% confidence interval over the held-out problems."
    )
    higher = (
        "Look at who is higher at the same place on the x&nbsp;axis: left at equal rollouts, "
        "right at equal time. "
        if len(variants) > 1
        else "Look for a curve that leaves the dashed base line and stays above its band. "
    )
    return higher + bands


def _batch_caption(variants: Sequence[Variant]) -> str:
    stretch = max(metric_over_seeds(variant.runs, "groups_fresh").stretch for variant in variants)
    points = f" Each piece is the mean of {stretch} steps." if stretch > 1 else ""
    seeds = " Means over seeds." if any(variant.has_seeds for variant in variants) else ""
    return (
        "Left: a full batch reaches the grey line. Where the filter is on, groups that are all "
        "right or all wrong are thrown out and retried or reused ones take their place; where it "
        "is off they stay in and teach nothing. Right: only mixed groups have a gradient, so look "
        f"for all wrong to shrink.{seeds}{points}"
    )


def _difficulty_caption(variants: Sequence[Variant]) -> str:
    movement = pooled([trained_movement(run) for variant in variants for run in variant.runs])
    if movement is None:
        return ""
    left_out = (
        f" {movement.left_out} were left out for a verdict that was not ok."
        if movement.left_out
        else ""
    )
    return (
        f"The same training problems, {movement.samples} answers each, before and after: a ribbon "
        "that rises is problems that got easier. Compare with the base asked again, which shows "
        f"what chance alone moves.{left_out}"
    )


def _unsolved_caption(variants: Sequence[Variant]) -> str:
    lines = (
        "from the lowest to the highest seed"
        if any(variant.has_seeds for variant in variants)
        else "the 95&nbsp;% confidence interval over problems"
    )
    return (
        "A problem counts as failed when all answers of the base were wrong, and as solved when "
        "one of as many answers is right. A second try solves some by luck, so what counts is "
        f"the distance between the coloured bar and the grey one. Thin lines are {lines}."
    )


def _verifier_section(variants: Sequence[Variant]) -> str:
    run = variants[0].runs[0]
    table = verifier_table(run)
    if not table.rows:
        return ""
    whose = f"{html_text(variants[0].label)}, seed {html_text(run.seed)}"
    return (
        f"<section><h2>Verifier</h2><p class='caption'>How long the verdicts of {whose} took, and "
        f"the slowest ones. {html_text(table.note)}</p>"
        f"{table_html(table.columns, table.rows, kind='left')}</section>"
    )


_COST_CAPTION = (
    "Where the seconds of a training step go, and how many tokens were generated, read and "
    "learned from. Evaluation is not counted."
)


def _health_caption(variants: Sequence[Variant]) -> str:
    seeds = (
        " Bands go from the lowest to the highest seed."
        if any(v.has_seeds for v in variants)
        else ""
    )
    return (
        "Look for entropy that falls slowly and does not collapse, few truncated weights and "
        f"clipped ratios, and a gradient norm without spikes.{seeds}"
    )


def _runs_section(variants: Sequence[Variant]) -> str:
    head, rows = run_rows(variants)
    parts = [
        "<section><h2>Runs, settings and how to read this</h2>",
        table_html(head, rows, kind="left"),
    ]
    setting_head, settings = setting_rows(variants)
    if settings:
        parts.append("<p class='caption'>Settings that differ:</p>")
        parts.append(table_html(setting_head, settings, kind="left"))
    notes = "".join(f"<li>{html_text(note)}</li>" for note in honest_notes(variants))
    parts.append(f'<ul class="notes">{notes}</ul>')
    for variant in variants:
        text = html_text(variant.runs[0].recipe_text, keep_lines=True)
        name = html_text(f"{variant.label}, seed {variant.runs[0].seed}")
        parts.append(
            f"<details><summary>Full recipe of {name}</summary><pre>{text}</pre></details>"
        )
    return "".join(parts) + "</section>"
