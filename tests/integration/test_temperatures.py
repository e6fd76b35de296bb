"""Training samples at one temperature and measurements at another, each at its own."""

import pytest

from bapo.rollout import EmbeddedEngine
from tests.resumable_runs import make_ingredients


@pytest.fixture
def sampled(monkeypatch):
    """`(group_size, temperature)` of every call of the engine."""
    calls = []
    sample = EmbeddedEngine.sample

    def noted(self, prompts, **arguments):
        calls.append((arguments["group_size"], arguments["temperature"]))
        return sample(self, prompts, **arguments)

    monkeypatch.setattr(EmbeddedEngine, "sample", noted)
    return calls


def test_a_run_trains_at_its_own_temperature_and_measures_at_that_of_its_evaluation(
    bapo, sampled, tmp_path
):
    recipe, run = make_ingredients(tmp_path), tmp_path / "run"
    sizes = ("rollout.group_size=4", "evaluation.samples=3", "evaluation.training_samples=2")
    warm = ("rollout.temperature=0.75", "evaluation.temperature=0.5")
    code, _, err = bapo("train", recipe, *sizes, *warm, "steps=2", "--output", run)
    assert code == 0, err
    # One answer to each of a few prompts tries the verifier, before the first step.
    assert set(sampled) == {(1, 0.75), (4, 0.75), (3, 0.5), (2, 0.5)}

    sampled.clear()
    again = ("eval", run, f"reward.verifier={tmp_path / 'verifier.py'}:verify", "--samples", 3)
    assert bapo(*again)[0] == 0
    assert bapo(*again, "--temperature", 0.25)[0] == 0
    assert sampled == [(3, 0.5), (3, 0.25)]
