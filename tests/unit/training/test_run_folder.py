import json

import pytest
import torch

from bapo.config import load_recipe
from bapo.errors import RunFolderError
from bapo.training.run_folder import RunFolder
from tests.table_policy import table_recipe

CPU = torch.device("cpu")


@pytest.fixture
def make_folder():
    """Creates run folders, and lets go of them in the end."""
    made = []

    def make(path):
        made.append(RunFolder.create(path, table_recipe(steps=3), CPU, "module"))
        return made[-1]

    yield make
    for folder in made:
        folder.close()


def test_a_new_folder_says_what_is_run_and_on_what(make_folder, tmp_path):
    path = tmp_path / "some" / "where"
    make_folder(path)
    assert load_recipe(path / "recipe.yaml") == table_recipe(steps=3)
    environment = json.loads((path / "environment.json").read_text())
    assert (environment["seed"], environment["device"]) == (3, "cpu")
    assert environment["torch"] == torch.__version__


def test_an_empty_folder_is_taken(make_folder, tmp_path):
    make_folder(tmp_path)
    assert (tmp_path / "recipe.yaml").is_file()


def test_a_folder_with_something_in_it_is_refused_and_left_alone(make_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(RunFolderError, match=r"is not empty; .*--output, or remove it\."):
        make_folder(tmp_path)
    assert not (tmp_path / "recipe.yaml").exists()
    assert not (tmp_path / "environment.json").exists()
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


@pytest.mark.parametrize("inside", [".", "run"])
def test_a_file_in_the_place_of_a_folder_is_refused_in_one_sentence(make_folder, tmp_path, inside):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"^The folder '.*' cannot be .*\.$") as caught:
        make_folder(tmp_path / "file" / inside)
    assert "\n" not in str(caught.value)


def test_lines_are_added_one_object_each(make_folder, tmp_path):
    folder = make_folder(tmp_path)
    folder.append("metrics.jsonl", [{"step": 1, "loss": None}])
    folder.append("metrics.jsonl", [])
    folder.append("metrics.jsonl", [{"step": 2, "loss": 0.5}, {"step": 3, "loss": 1.0}])
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": null}\n{"step": 2, "loss": 0.5}\n{"step": 3, "loss": 1.0}\n'
    )


def test_what_is_not_a_number_never_reaches_a_file(make_folder, tmp_path):
    folder = make_folder(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.append("metrics.jsonl", [{"loss": 1.0}, {"loss": float("nan")}])
    assert not (tmp_path / "metrics.jsonl").exists()
