import numpy as np
import pytest

from bapo.reporting.figures.guarantee import batch_bound, guarantee_figure, measured_improvement
from bapo.reporting.figures.style import looks
from bapo.reporting.runs import read_run
from bapo.reporting.variants import Variant
from tests.run_folder_builder import build_run, rewrite_lines


def folder(tmp_path, **sizes):
    return build_run(tmp_path / "run", **sizes)


def test_sources_are_weighted_by_their_groups(tmp_path):
    path = folder(tmp_path, steps=2)
    rewrite_lines(
        path / "metrics.jsonl",
        {
            "bound_total_fresh": 0.5,
            "bound_total_retried": None,
            "bound_total_reused": -1.0,
            "groups_fresh": 6,
            "groups_retried": 2,
            "groups_reused": 3,
        },
    )
    np.testing.assert_allclose(batch_bound(read_run(path)), [0.0, 0.0])


def test_a_step_without_a_bound_is_a_gap_and_a_run_without_any_has_no_figure(tmp_path):
    path = folder(tmp_path, steps=2)
    names = [f"bound_total_{source}" for source in ("fresh", "retried", "reused")]
    rewrite_lines(path / "metrics.jsonl", dict.fromkeys(names))
    run = read_run(path)
    assert np.isnan(batch_bound(run)).all()
    variants = [Variant("bapo", "bapo", (run,))]
    assert guarantee_figure(variants, looks(variants)) is None


def test_the_gain_between_two_evaluations_is_spread_over_the_steps_between(tmp_path):
    path = folder(tmp_path, steps=6, evaluate_every=4)
    run = read_run(path)
    first, middle, last = (one["pass_at_1"] for one in run.evaluations_of("held_out"))
    expected = [(middle - first) / 4] * 4 + [(last - middle) / 2] * 2
    np.testing.assert_allclose(measured_improvement(run), expected)


def test_a_run_without_evaluations_still_shows_its_bound(tmp_path):
    path = folder(tmp_path, steps=3)
    (path / "evaluation.jsonl").write_text("")
    run = read_run(path)
    assert np.isnan(measured_improvement(run)).all()
    variants = [Variant("bapo", "bapo", (run,))]
    found = guarantee_figure(variants, looks(variants))
    assert found is not None
    mean = np.nanmean(batch_bound(run))
    assert mean != pytest.approx(0.0)
    assert "bapo: bound" in found.alternative
    assert "measured" not in found.alternative
