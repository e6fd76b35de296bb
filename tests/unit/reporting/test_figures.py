import numpy as np

from bapo.reporting.figures.series import MOST_POINTS, binned, ignoring_gaps, over_seeds
from bapo.reporting.figures.style import looks
from bapo.reporting.variants import Variant
from tests.unit.reporting.test_headline import run_of

NAN = float("nan")


def test_seeds_are_put_on_the_steps_that_all_have_reached() -> None:
    runs = [run_of([0.1] * 4), run_of([0.1] * 3)]
    series = over_seeds(runs, [np.array([1.0, 2.0, 3.0]), np.array([3.0, NAN])])
    np.testing.assert_array_equal(series.steps, [1, 2])
    np.testing.assert_array_equal(series.mean, [2.0, 2.0])
    np.testing.assert_array_equal(series.low, [1.0, 2.0])
    np.testing.assert_array_equal(series.high, [3.0, 2.0])


def test_a_long_series_is_drawn_as_means_of_equal_stretches() -> None:
    np.testing.assert_array_equal(binned(np.array([1.0, 3.0, NAN, 5.0, NAN]), 2), [2.0, 5.0, NAN])
    long = run_of([0.1] * (3 * MOST_POINTS + 1))
    series = over_seeds([long], [np.arange(3.0 * MOST_POINTS)])
    assert (series.stretch, len(series.mean)) == (3, MOST_POINTS)
    assert series.mean[0] == 1.0


def test_a_column_of_gaps_stays_a_gap() -> None:
    table = np.array([[1.0, NAN], [3.0, NAN]])
    np.testing.assert_array_equal(ignoring_gaps(np.mean, table), [2.0, NAN])
    assert len(ignoring_gaps(np.mean, np.zeros((0, 0)))) == 0


def test_every_variant_looks_different_without_its_colour_too() -> None:
    names = ["bapo", "grpo", "dapo", "filtered", "grpo_delayed", "bapo_no_retry", "bapo_no_reuse"]
    styles = looks([Variant(name, name, (run_of([0.1]),)) for name in names])
    assert len({look.colour for look in styles.values()}) == len(names)
    assert len({look.marker for look in styles.values()}) == len(names)
