"""The base models that come with bapo are those that their recipes and hashes say."""

import hashlib
import json
from pathlib import Path

import pytest

from bapo.config.warmstart import load_warmstart_recipe
from bapo.rollout.loading import embedded_models, resolve_location
from bapo.tasks import build_worked_task

LARGEST_BYTES = 5_000_000


def test_the_embedded_models_are_known_by_name():
    assert {"countdown", "math", "vision"} == set(embedded_models())


@pytest.mark.parametrize("name", embedded_models())
def test_an_embedded_model_has_the_recipe_and_the_hash_that_made_it(name):
    folder = Path(resolve_location(f"embedded:{name}"))
    record = json.loads((folder / "warmstart.json").read_text(encoding="utf-8"))
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["weights_sha256"]
    shipped = json.loads(json.dumps(load_warmstart_recipe(f"{name}-base").as_mapping()))
    made = record["recipe"]
    assert (made["seed"], made["steps"]) == (shipped["seed"], shipped["steps"])
    for section in ("model", "training"):  # a setting that came later was not there to be recorded
        assert made[section].items() <= shipped[section].items()
    assert made["task"]["name"] == shipped["task"]["name"]
    assert made["task"]["options"] == shipped["task"]["options"]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= LARGEST_BYTES


@pytest.mark.parametrize("name", ["countdown", "math", "vision"])
def test_its_tokenizer_has_a_token_for_every_symbol_of_its_task(name):
    folder = Path(resolve_location(f"embedded:{name}"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    task = build_worked_task(load_warmstart_recipe(f"{name}-base").task)
    assert list(tokenizer["model"]["vocab"]) == ["<pad>", "<end>", *task.alphabet]
