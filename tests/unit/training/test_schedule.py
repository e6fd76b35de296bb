import pytest

from bapo.config import TrainingSettings
from bapo.training.schedule import learning_rate


def rates(steps, schedule, warmup=0):
    settings = TrainingSettings(learning_rate=8.0, schedule=schedule, warmup_steps=warmup)
    return [learning_rate(settings, step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [8, 8, 8, 8]),
        ("linear", [8, 6, 4, 2]),
        # (1 + cos(0, 45, 90, 135 degrees)) * 4
        ("cosine", [8, 6.8284271, 4, 1.1715729]),
    ],
)
def test_the_learning_rate_without_warmup(schedule, expected):
    assert rates(4, schedule) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [2, 4, 6, 8, 8, 8]),
        ("linear", [2, 4, 6, 8, 8, 4]),
        ("cosine", [2, 4, 6, 8, 8, 4]),
    ],
)
def test_the_warmup_rises_to_the_peak_and_the_schedule_begins_after_it(schedule, expected):
    assert rates(6, schedule, warmup=4) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_run_that_ends_within_its_warmup_never_reaches_the_peak(schedule):
    assert rates(3, schedule, warmup=8) == pytest.approx([1, 2, 3])
    assert rates(2, schedule, warmup=2) == pytest.approx([4, 8])
