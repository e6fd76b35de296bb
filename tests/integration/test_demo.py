"""What `make demo` promises, through the real command: minutes, so it runs with the slow tests."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.timeout(3600)
def test_the_demo_learns_and_ends_with_its_report(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bapo", "demo", "--output", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["held_out_after"] >= 1.5 * summary["held_out_before"]
    assert summary["unsolved_solved"] > summary["unsolved_solved_by_base"]
    lines = (tmp_path / "demo" / "metrics.jsonl").read_text().splitlines()
    first = [json.loads(line) for line in lines[:5]]
    all_wrong = sum(line["groups_all_wrong"] for line in first)
    assert 0.6 <= all_wrong / sum(line["groups_sampled_fresh"] for line in first) <= 0.8
    page = tmp_path / "demo" / "report" / "report.html"
    assert str(page) in done.stdout
    assert page.read_text().startswith("<!doctype html>")
