"""Reads run folders and shows them: one HTML report, and plain tables for `bapo inspect`.

The names below are loaded when they are first used, so that `bapo.reporting.text` can be had
without the figures' libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bapo.reporting.inspection import RunSummary, summarise_run
    from bapo.reporting.page import write_report
    from bapo.reporting.prompt_history import prompt_table
    from bapo.reporting.runs import RunRecord, find_runs
    from bapo.reporting.tables import Table

__all__ = [
    "RunRecord",
    "RunSummary",
    "Table",
    "find_runs",
    "prompt_table",
    "summarise_run",
    "write_report",
]

_HOMES = {
    "RunRecord": "runs",
    "RunSummary": "inspection",
    "Table": "tables",
    "find_runs": "runs",
    "prompt_table": "prompt_history",
    "summarise_run": "inspection",
    "write_report": "page",
}


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bapo.reporting' has no attribute '{name}'")
    return getattr(import_module(f"bapo.reporting.{_HOMES[name]}"), name)
