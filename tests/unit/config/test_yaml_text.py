import pytest

from bapo.config import load_recipe, load_warmstart_recipe, resolve_recipe
from bapo.config.yaml_text import load_yaml
from bapo.errors import RecipeError, SettingError


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("steps: 3\nmodel: x\nsteps: 4\n", "'steps' stands twice in line 3, column 1"),
        ("training: {batch_groups: 4, batch_groups: 5}\n", "'batch_groups' stands twice in line 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_place(tmp_path, text, place):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=place):
        load_recipe(path)


def test_an_override_with_a_key_twice_is_refused():
    content = {"model": "m", "task": "countdown"}
    with pytest.raises(SettingError, match="is not valid YAML"):
        resolve_recipe(content, ["task={name: countdown, name: dataset}"])


def test_the_same_key_in_two_mappings_and_a_merge_are_fine():
    text = "base: &base {a: 1, b: 2}\none: {<<: *base, a: 3}\ntwo: {a: 4}\n"
    assert load_yaml(text)["one"] == {"a": 3, "b": 2}


def test_each_kind_of_recipe_names_the_command_that_it_is_for():
    with pytest.raises(RecipeError, match="use 'bapo warmstart countdown-base"):
        load_recipe("countdown-base")
    with pytest.raises(RecipeError, match="use 'bapo train countdown-demo"):
        load_warmstart_recipe("countdown-demo")


@pytest.mark.parametrize("override", ["evaluation.prompts=1000000000"])
def test_sizes_that_would_never_be_made_are_out_of_range(override):
    with pytest.raises(SettingError, match="must be 1 to 100000"):
        resolve_recipe({"model": "m", "task": "countdown"}, [override])
