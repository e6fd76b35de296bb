"""The gate keeps a policy up that a destructive setting ruins without it.

The runs are those of benchmarks/destructive_setting, whose figures docs/guarantee.md quotes.
"""

import pytest
from benchmarks.destructive_setting import settings_of, train_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def accuracies(policy, variant, seed, steps):
    return train_once(policy, settings_of(variant, policy, "destructive"), seed, steps)["accuracy"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_embedded_model_collapses_without_the_gate_and_learns_with_it(seed):
    ruined = accuracies("countdown", "ungated", seed, 20)
    held = accuracies("countdown", "gate", seed, 20)
    assert ruined[0] == held[0] > 0.04
    assert ruined[-1] < 0.01
    assert held[-1] >= held[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_table_ends_far_higher_with_the_gate(seed):
    ruined = accuracies("table", "ungated", seed, 150)
    held = accuracies("table", "gate", seed, 150)
    assert held[-1] > ruined[-1] + 0.2
    assert held[-1] > held[0]
