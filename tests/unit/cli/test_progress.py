"""What a run shows in terminals of several widths."""

import io

import pytest
from rich.console import Console

from bapo.cli.progress import TerminalProgress

METRICS = {
    "correctness_fresh": 0.102,
    "groups_fresh": 15,
    "groups_retried": 3,
    "groups_reused": 14,
}
NOTE = "correct 10.2 %  batch 15 fresh + 3 retried + 14 reused"


@pytest.mark.parametrize(("columns", "has_bar"), [(80, False), (120, True)])
def test_the_step_and_the_batch_are_whole_in_a_terminal_of_any_usual_width(columns, has_bar):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=columns, color_system=None)
    with TerminalProgress("bapo", console) as progress:
        progress.trained(10, 100, METRICS)
    assert f" 10/100 {NOTE} " in shown.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown.getvalue()
    assert ("\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown.getvalue()) == has_bar
