"""A run with the fast paths switched off learns from the same completions as one with all on."""

import json

import pytest

from bapo.training import train
from tests.resumable_runs import make_ingredients, recipe_of

PLAIN = (
    "rollout.decoder=module",
    "rollout.refill=false",
    "reward.overlap=false",
    "training.share_prompts=false",
    "training.native_layers=false",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fast-paths")
    make_ingredients(path)
    return path


@pytest.mark.parametrize("delay", [1, 2])
def test_fast_paths_change_no_completion_and_no_verdict_and_numbers_by_rounding_alone(
    folder, tmp_path, delay
):
    """With v = 1 retried prompts share the calls of fresh ones; with v = 2 they do not."""
    settings = (f"adaptation.behavior_sync_every={delay}", "adaptation.retry_every=2")
    kept = {}
    for name, changes in (("fast", ()), ("plain", PLAIN)):
        train(recipe_of(folder, *settings, *changes), tmp_path / name)
        ledger = (tmp_path / name / "ledger.jsonl").read_text()
        metrics = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        kept[name] = ledger, [json.loads(line) for line in metrics]
    assert kept["fast"][0] == kept["plain"][0]
    for fast, plain in zip(kept["fast"][1], kept["plain"][1], strict=True):
        assert fast["generated_tokens"] == plain["generated_tokens"]
        assert fast["loss"] == pytest.approx(plain["loss"], abs=1e-5)
        assert fast["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-3, abs=1e-5)
