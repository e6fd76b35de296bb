"""The wheel holds all that the command line needs, and works without the sources."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LARGEST_ASSET = 5_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Hatchling's own entry point: no isolated environment, and so no network.
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's content, to stand on the path before the sources."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_wheel_carries_recipes_models_styles_types_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
    recipes = {f"bapo/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    assert recipes <= set(sizes)
    assert len(recipes) > 2
    assert {"bapo/py.typed", "bapo/reporting/report.css"} <= set(sizes)
    models = {name.split("/")[2] for name in sizes if name.startswith("bapo/assets/")}
    assert {"countdown", "math"} <= models
    for model in models:
        files = {n: s for n, s in sizes.items() if n.startswith(f"bapo/assets/{model}/")}
        assert {"config.json", "model.safetensors", "tokenizer.json", "warmstart.json"} <= {
            name.rpartition("/")[2] for name in files
        }
        assert sum(files.values()) <= LARGEST_ASSET
    assert any(name.endswith("licenses/LICENSE") for name in sizes)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in sizes)


def test_a_recipe_is_found_by_name_from_another_folder(installed, tmp_path):
    code = "import bapo.config as c; print(c.find_recipe('countdown-demo'))"
    done = run(installed, tmp_path, "-c", code)
    assert Path(done.stdout.strip()) == installed / "bapo" / "recipes" / "countdown-demo.yaml"


def test_the_command_line_works_from_another_folder(installed, tmp_path):
    shown = run(installed, tmp_path, "-m", "bapo", "--help")
    assert shown.returncode == 0
    assert "warmstart" in shown.stdout
    missing = run(installed, tmp_path, "-m", "bapo", "train", "countdown-dmo", "--output", "x")
    assert missing.returncode == 2
    assert missing.stderr == (
        "bapo: There is no recipe 'countdown-dmo': did you mean 'countdown-demo'?\n"
    )


def test_the_embedded_model_is_measured_from_another_folder(installed, tmp_path):
    done = run(
        installed,
        tmp_path,
        *("-m", "bapo", "eval", "embedded:countdown", "rollout.max_new_tokens=40"),
        *("--task", "countdown-3", "--prompts", "8", "--samples", "2"),
    )
    assert done.returncode == 0, done.stderr
    assert "embedded:countdown on CD-3" in done.stdout
