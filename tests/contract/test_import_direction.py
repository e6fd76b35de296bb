"""Imports point one way, and what must stay light stays light.

    types, errors, config <- adaptation, objective, reward, tasks, rollout
                          <- evaluation <- training <- selftest <- cli

`reporting` reads files and knows only the errors. The package itself, `bapo/__init__.py`, offers
names of other rooms and imports them when they are first used.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.source_tree import FILES, SOURCE, imports_of, package_of, room_of

GROUND = {"types", "errors", "config"}
SIBLINGS = {"adaptation", "objective", "reward", "tasks", "rollout"}

MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "config": {"types", "errors"},
    **{room: GROUND for room in SIBLINGS},
    "evaluation": GROUND | SIBLINGS,
    "training": GROUND | SIBLINGS | {"evaluation"},
    "selftest": GROUND | SIBLINGS | {"evaluation", "training"},
    "reporting": {"errors"},
    "cli": GROUND | SIBLINGS | {"evaluation", "training", "selftest", "reporting"},
    "__main__": {"cli"},
    "__init__": GROUND | SIBLINGS | {"evaluation", "training", "reporting"},
}

# What a room may use besides the standard library; rooms that are not named may use anything.
LIBRARIES = {
    "types": {"numpy"},
    "errors": set(),
    "config": {"yaml"},
    "adaptation": {"numpy"},
    "reporting": {"numpy", "matplotlib", "yaml"},
    "__main__": set(),
}
HEAVY = {"torch", "transformers", "accelerate", "trl", "vllm"}
WITHOUT_HEAVY = {"reward", "tasks"}

# Adaptation is a function of what it is given: no files, no clock, no generator of its own.
OUTSIDE_WORLD = {
    *("os", "io", "pathlib", "shutil", "tempfile", "logging"),
    *("random", "time", "datetime", "secrets", "subprocess", "socket", "threading"),
}


def violations(source: str, path: Path) -> list[str]:
    """What a file with this source would break, as `line: reason`.

    Args:
        source: Python text.
        path: Where it stands, or would stand, in the source tree.
    """
    room = room_of(path)
    found = []
    for line, module in imports_of(ast.parse(source), package_of(path)):
        first, _, rest = module.partition(".")
        if first == "bapo":
            other = rest.partition(".")[0]
            if other not in {"", room, *MAY_IMPORT[room]}:
                found.append(f"{line}: {room} may not import '{module}'")
        elif first not in sys.stdlib_module_names:
            allowed = LIBRARIES.get(room)
            if (allowed is not None and first not in allowed) or (
                room in WITHOUT_HEAVY and first in HEAVY
            ):
                found.append(f"{line}: {room} may not use the library '{first}'")
        elif room == "adaptation" and first in OUTSIDE_WORLD:
            found.append(f"{line}: adaptation may not reach outside through '{first}'")
    return found


def test_every_room_has_its_place_in_the_order():
    assert SOURCE / "types.py" in FILES
    assert {room_of(path) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_room_may(path):
    assert violations(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    ("place", "source", "reason"),
    [
        ("types.py", "import bapo.config", "types may not import 'bapo.config'"),
        ("config/x.py", "import torch", "config may not use the library 'torch'"),
        ("adaptation/x.py", "import torch.nn", "adaptation may not use the library 'torch'"),
        ("adaptation/x.py", "import time", "adaptation may not reach outside through 'time'"),
        ("adaptation/x.py", "from bapo.rollout import Engine", "'bapo.rollout.Engine'"),
        ("objective/x.py", "from bapo import adaptation", "may not import 'bapo.adaptation'"),
        ("reward/x.py", "from ..tasks.base import Task", "may not import 'bapo.tasks.base.Task'"),
        ("reward/x.py", "from torch import Tensor", "reward may not use the library 'torch'"),
        ("rollout/x.py", "def f():\n    import bapo.reward", "2: rollout may not import"),
        ("rollout/x.py", "import_module('bapo.training.run')", "may not import 'bapo.training"),
        ("tasks/x.py", "importlib.import_module(f'bapo.cli.{n}')", "may not import 'bapo.cli."),
        ("evaluation/x.py", "from bapo.training import Loop", "'bapo.training.Loop'"),
        ("training/x.py", "from bapo.cli import app", "training may not import 'bapo.cli.app'"),
        ("training/x.py", "from bapo import train", "training may not import 'bapo.train'"),
        ("training/x.py", "import bapo.selftest", "training may not import 'bapo.selftest'"),
        ("selftest/x.py", "from bapo.cli import main", "selftest may not import 'bapo.cli.main'"),
        ("reporting/x.py", "from bapo.types import Group", "'bapo.types.Group'"),
        ("reporting/figures/x.py", "import torch", "reporting may not use the library 'torch'"),
        ("reporting/x.py", "import pandas", "reporting may not use the library 'pandas'"),
    ],
)
def test_a_violation_is_caught(place, source, reason):
    found = violations(source, SOURCE / place)
    assert len(found) == 1
    assert reason in found[0]


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("adaptation/x.py", "import numpy as np\nfrom bapo.types import Group\nimport math"),
        ("adaptation/x.py", "from bapo.adaptation.bands import Band\nfrom . import filters"),
        ("evaluation/x.py", "from bapo.rollout import Engine\nimport torch"),
        ("training/x.py", "from bapo.evaluation import evaluate"),
        ("cli/x.py", "def f():\n    from bapo.training import train"),
        (
            "reporting/x.py",
            "from matplotlib.figure import Figure\nfrom bapo.errors import BapoError",
        ),
    ],
)
def test_what_the_order_allows_is_let_through(place, source):
    assert violations(source, SOURCE / place) == []


def loaded_after(statement: str) -> set[str]:
    """The first names of all modules that a fresh interpreter holds after a statement."""
    code = (
        f"import json, sys\nsys.argv = ['bapo', '--help']\ntry:\n    {statement}\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print()\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_bapo_brings_no_library_along():
    assert not loaded_after("import bapo") & (HEAVY | {"numpy", "yaml", "matplotlib", "rich"})


@pytest.mark.parametrize("statement", ["import bapo.cli", "from bapo.cli import main; main()"])
def test_the_command_line_shows_its_help_without_torch(statement):
    assert not loaded_after(statement) & (HEAVY | {"matplotlib", "datasets"})


def test_rooms_without_torch_bring_none_along_through_others():
    rooms = "bapo.types, bapo.errors, bapo.config, bapo.adaptation, bapo.reporting"
    assert not loaded_after(f"import {rooms}, bapo.reward.pool, bapo.tasks") & HEAVY


def test_the_check_sees_torch_where_it_is():
    assert "torch" in loaded_after("import bapo.objective")
