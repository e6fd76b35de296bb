"""Every recipe that comes with bapo resolves, with the settings of its task."""

from pathlib import Path

import pytest

from bapo.config import load_recipe, parse_section
from bapo.config.warmstart import load_warmstart_recipe
from bapo.tasks import TASKS, build_task
from bapo.tasks.known_sets import KNOWN_SETS, KnownSetSettings

RECIPES = sorted((Path(__file__).resolve().parents[3] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_resolves_with_its_task(path):
    is_base = path.stem.endswith("-base")
    task = (load_warmstart_recipe(path) if is_base else load_recipe(path)).task
    assert task.name in TASKS
    if task.name in KNOWN_SETS:  # the set itself is on the Hub
        parse_section(KnownSetSettings, task.options, "task")
    else:
        assert build_task(task).evaluation_prompts(1)
