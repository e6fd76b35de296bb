"""Reads run folders and shows them: one HTML report, and plain tables for `bapo inspect`."""

from bapo.reporting.inspection import RunSummary, Table, summarise_run
from bapo.reporting.page import write_report
from bapo.reporting.runs import RunRecord, find_runs

__all__ = ["RunRecord", "RunSummary", "Table", "find_runs", "summarise_run", "write_report"]
