"""What became of one prompt, step by step, as `bapo inspect RUN --prompt ID` shows it."""

import math
from pathlib import Path

from bapo.errors import RunFolderError
from bapo.reporting.runs import Record, is_run_folder, read_lines
from bapo.reporting.tables import Table
from bapo.reporting.text import NOT_MEASURED, number, percent, visible

_COLUMNS = ("step", "what", "as", "mean correct", "sampled by version", "outcome")


def prompt_table(path: Path, prompt_id: str) -> Table:
    """Every time a prompt was asked or reused, and every event of it in a buffer.

    Args:
        path: A run folder.
        prompt_id: The prompt, as the data or `bapo inspect` name it.

    Raises:
        RunFolderError: `path` is no run folder, or its run has no such prompt.
    """
    if not is_run_folder(path):
        raise RunFolderError(f"'{path}' is not a run folder.")
    shown = visible(prompt_id)
    lines = [one for one in read_lines(path / "ledger.jsonl") if _is(one, shown)]
    use = _use(path, shown)
    if not lines and use is None:
        raise RunFolderError(
            f"The run '{path}' has no prompt '{shown}'; rows.jsonl lists those it has."
        )
    groups = [one for one in lines if one.get("kind") == "group"]
    trained = sum(one.get("outcome") == "trained" for one in groups)
    asked = sum(one.get("source") != "reused" for one in groups)
    note = (
        f"{use or 'No row of it is in rows.jsonl.'} Asked {asked} times, trained on in {trained} "
        "batches."
    )
    return Table(f"Prompt {shown}", _COLUMNS, tuple(map(_row, lines)), note)


def _row(line: Record) -> tuple[str, ...]:
    value = number(line, "correctness_rate")
    step, rate = (
        f"{number(line, 'step'):.0f}",
        NOT_MEASURED if math.isnan(value) else percent(value),
    )
    if line.get("kind") != "group":
        return (step, "buffer", "", rate, "", _text(line, "event"))
    source = _text(line, "source")
    what = "reused" if source == "reused" else "asked"
    version = f"{number(line, 'policy_version'):.0f}"
    return (step, what, source, rate, version, _text(line, "outcome"))


def _use(path: Path, shown: str) -> str | None:
    for line in read_lines(path / "rows.jsonl"):
        if line.get("kind") == "row" and _is(line, shown):
            row, use = number(line, "row"), _text(line, "use").replace("_", " ")
            return f"Row {row:.0f} of {_text(line, 'source')}, used for {use}."
    return None


def _is(line: Record, shown: str) -> bool:
    return visible(str(line.get("prompt_id"))) == shown


def _text(line: Record, key: str) -> str:
    return visible(str(line.get(key)))
