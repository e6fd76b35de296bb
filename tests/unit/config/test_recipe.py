import dataclasses
import json

import pytest
import yaml

from bapo.config import (
    PRESETS,
    SECTIONS,
    AdaptationSettings,
    ObjectiveSettings,
    find_recipe,
    load_recipe,
    meaning_of,
    parse_section,
    read_yaml,
    recipe_as_mapping,
    resolve_recipe,
    write_recipe,
)
from bapo.config.settings import ModelSettings, TaskSettings
from bapo.errors import RecipeError, SettingError

LEAST = {"model": "embedded:countdown", "task": "countdown"}


def resolve(*overrides, **content):
    return resolve_recipe({**LEAST, **content}, overrides)


def message(*overrides, **content):
    with pytest.raises(SettingError) as caught:
        resolve(*overrides, **content)
    return str(caught.value)


def test_the_least_recipe_has_every_default():
    recipe = resolve()
    assert recipe.model.path == "embedded:countdown"
    assert recipe.task == TaskSettings("countdown", {})
    assert (recipe.algorithm, recipe.seed, recipe.steps) == ("bapo", 0, 100)
    for name, kind in SECTIONS.items():
        assert getattr(recipe, name) == kind()


@pytest.mark.parametrize(
    "kind", [*SECTIONS.values(), ModelSettings], ids=lambda kind: kind.__name__
)
def test_every_default_passes_its_own_check_and_has_a_meaning(kind):
    plain = dataclasses.asdict(kind())
    assert parse_section(kind, plain, "section") == kind()
    for field in dataclasses.fields(kind):
        meaning = meaning_of(field)
        assert len(meaning.text) > 10
        assert not meaning.text.endswith(".")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"stepz": 5}, "Unknown setting 'stepz': did you mean 'steps'?"),
        ({"algorithm": "bapoo"}, "Unknown algorithm 'bapoo': did you mean 'bapo'?"),
        ({"algorithm": 3}, "Unknown algorithm '3': known are bapo, bapo_no_retry"),
        ({"algorithm": ["bapo"]}, "Unknown algorithm '['bapo']'"),
        (
            {"adaptation": {"retry_evry": 5}},
            "Unknown setting 'adaptation.retry_evry': did you mean 'retry_every'?",
        ),
        ({"adaptation": 5}, "'adaptation' must be a mapping of settings, but is 5."),
        ({"model": 5}, "'model' must be a mapping of settings, but is 5."),
        ({"model": ""}, "'model' is missing"),
        ({"task": {"size": 4}}, "'task' is missing"),
        ({"task": {"name": "a", "options": 5}}, "'task.options' must be a mapping, but is 5."),
        (
            {"task": {"name": "a", "options": 5, "size": 4}},
            "'task.options' must be a mapping, but is 5.",
        ),
        ({"seed": -1}, "'seed' must be a whole number from 0 to 4294967295, but is -1."),
        ({"seed": 1.5}, "'seed' must be a whole number from 0 to 4294967295, but is 1.5."),
        ({"steps": 0}, "'steps' must be a whole number of at least 1, but is 0."),
        ({"steps": True}, "'steps' must be a whole number of at least 1, but is True."),
    ],
)
def test_a_wrong_recipe_gives_one_sentence(content, expected):
    text = message(**content)
    assert text.startswith(expected)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"training": {"batch_groups": 2, "updates_per_step": 3}},
            "'training.updates_per_step' is 3, but a batch has only 2 groups",
        ),
        ({"adaptation": {"reuse_fixed": [0.5, 0.25]}}, "'adaptation.reuse_fixed' is [0.5, 0.25]"),
        (
            {"adaptation": {"reuse_falling_start": [0.7, 0.6]}},
            "'adaptation.reuse_falling_start' is [0.7, 0.6]",
        ),
        (
            {"adaptation": {"reuse_falling_rates": [0.5, 0.5]}},
            "'adaptation.reuse_falling_rates' is [0.5, 0.5], but must rise.",
        ),
        (
            {"adaptation": {"reuse_low_range": [0.3, 0.375]}},
            "'adaptation.reuse_low_range' must not lie above 'adaptation.reuse_high_range'",
        ),
        (
            {"adaptation": {"reuse_high_range": [0.25, 0.3]}},
            "'adaptation.reuse_low_range' must not lie above 'adaptation.reuse_high_range'",
        ),
        (
            {"rollout": {"token_budget": 256, "max_new_tokens": 256}},
            "'rollout.token_budget' is 256, but one completion may need 257",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(content, expected):
    assert message(**content).startswith(expected)


def test_a_band_of_one_rate_is_allowed():
    recipe = resolve(adaptation={"reuse_fixed": [0.25, 0.25]})
    assert recipe.adaptation.reuse_fixed == (0.25, 0.25)


def test_later_sources_of_a_value_win():
    assert resolve(algorithm="grpo").objective.clip_high == 0.2
    assert resolve(algorithm="grpo", objective={"clip_high": 0.25}).objective.clip_high == 0.25
    recipe = resolve("objective.clip_high=0.3", algorithm="grpo", objective={"clip_high": 0.25})
    assert recipe.objective.clip_high == 0.3
    assert recipe.adaptation.retry is False


def test_an_override_of_the_algorithm_takes_its_preset_too():
    assert resolve("algorithm=dapo").adaptation.max_resample_rounds == 9


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("steps=50", ("steps",), 50),
        ("training.learning_rate=1e-6", ("training", "learning_rate"), 1e-6),
        ("adaptation.reuse_fixed=[0.1, 0.2]", ("adaptation", "reuse_fixed"), (0.1, 0.2)),
        ("adaptation.hard_capacity=null", ("adaptation", "hard_capacity"), None),
        ("adaptation.hard_capacity=", ("adaptation", "hard_capacity"), None),
        ("logging.trackers=[wandb]", ("logging", "trackers"), ("wandb",)),
        ("model=some/folder=x", ("model", "path"), "some/folder=x"),
        ("model.dtype=bfloat16", ("model", "dtype"), "bfloat16"),
        ("task.level=CD-4", ("task", "options"), {"level": "CD-4"}),
        ("task.options={level: 3}", ("task", "options"), {"level": 3}),
    ],
)
def test_overrides_reach_every_kind_of_setting(override, path, expected):
    value = resolve(override)
    for name in path:
        value = getattr(value, name)
    assert value == expected


def test_an_override_of_one_key_keeps_the_rest_of_its_section():
    recipe = resolve("model.dtype=bfloat16", "task.level=3", task={"name": "countdown", "size": 4})
    assert recipe.model.path == "embedded:countdown"
    assert recipe.task == TaskSettings("countdown", {"size": 4, "level": 3})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps", "The override 'steps' must have the form section.key=value."),
        ("=5", "The override '=5' must have the form"),
        ("steps=[1", "The value of the override 'steps=[1' is not valid YAML; put a text with"),
        ("stepz=1", "Unknown setting 'stepz': did you mean 'steps'?"),
        ("trainig.learning_rate=1", "Unknown setting 'trainig': did you mean 'training'?"),
        ("steps.x=1", "The override 'steps.x=1' names a key of 'steps', which has none."),
        ("training.a.b=1", "Unknown setting 'training.a.b'"),
        ("training=5", "'training' must be a mapping of settings, but is 5."),
        ("seed=", "'seed' must be a whole number from 0 to 4294967295, but is empty."),
        ("seed=-1", "'seed' must be a whole number from 0 to 4294967295, but is -1."),
        ("seed=4294967296", "'seed' must be a whole number from 0 to 4294967295, but is 42949"),
    ],
)
def test_a_wrong_override_gives_one_sentence(override, expected):
    recipe = {**LEAST, "steps": 5}
    with pytest.raises(SettingError) as caught:
        resolve_recipe(recipe, [override])
    assert str(caught.value).startswith(expected)


def test_resolving_leaves_the_given_mapping_alone():
    content = {**LEAST, "task": {"name": "countdown", "size": 3}, "training": {"batch_groups": 4}}
    before = json.dumps(content)
    resolve_recipe(content, ["training.batch_groups=8", "task.size=4", "model.dtype=float16"])
    assert json.dumps(content) == before


@pytest.mark.parametrize("algorithm", list(PRESETS))
def test_a_recipe_survives_being_written_out(algorithm, tmp_path):
    recipe = resolve(
        "training.learning_rate=1e-6",
        "rollout.stop=['</answer>']",
        algorithm=algorithm,
        task={"name": "countdown", "sizes": [3, 4]},
        seed=7,
    )
    mapping = recipe_as_mapping(recipe)
    assert resolve_recipe(mapping) == recipe
    assert resolve_recipe(json.loads(json.dumps(mapping))) == recipe
    path = tmp_path / "recipe.yaml"
    write_recipe(recipe, path)
    assert load_recipe(path) == recipe
    assert list(yaml.safe_load(path.read_text()))[:5] == [
        "algorithm",
        "model",
        "task",
        "seed",
        "steps",
    ]


def test_a_written_recipe_holds_every_setting():
    mapping = recipe_as_mapping(resolve())
    assert set(mapping) == {"algorithm", "model", "task", "seed", "steps", *SECTIONS}
    for name, kind in SECTIONS.items():
        assert set(mapping[name]) == {field.name for field in dataclasses.fields(kind)}


def test_an_empty_section_means_its_defaults():
    assert resolve(adaptation=None).adaptation == AdaptationSettings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: [1", "is not valid YAML"),
        ("- a\n- b\n", "must be a mapping of settings, but is ['a', 'b']."),
        ("", "is empty; it needs at least a model and a task."),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_gives_one_sentence(text, expected, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_gives_one_sentence(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"steps: \xff\xfe5")
    with pytest.raises(RecipeError, match="is not valid YAML"):
        read_yaml(path)


@pytest.mark.parametrize(
    "name", ["no-such-recipe", "recipes/no-such-recipe.yaml", "/no/where.yaml"]
)
def test_a_missing_recipe_gives_one_sentence(name):
    with pytest.raises(RecipeError, match="There is no recipe"):
        find_recipe(name)


def test_a_recipe_that_cannot_be_read_gives_one_sentence(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_a_folder_is_not_a_recipe(tmp_path):
    with pytest.raises(RecipeError, match="There is no recipe"):
        find_recipe(tmp_path)


def test_numbers_without_a_dot_are_read_from_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: m\ntask: countdown\ntraining: {learning_rate: 1e-6}\n"
        "objective: {advantage_epsilon: 1e-4}\n"
    )
    recipe = load_recipe(path, ["training.weight_decay=1e-3"])
    assert recipe.training.learning_rate == 1e-6
    assert recipe.objective.advantage_epsilon == 1e-4
    assert recipe.training.weight_decay == 1e-3


@pytest.mark.parametrize(
    ("algorithm", "v", "filtered", "rounds", "retry", "reuse", "clip_high"),
    [
        ("grpo", 1, False, 0, False, False, 0.2),
        ("grpo_delayed", 5, False, 0, False, False, 0.2),
        ("filtered", 5, True, 0, False, False, 0.28),
        ("dapo", 1, True, 9, False, False, 0.28),
        ("bapo", 5, True, 0, True, True, 0.28),
        ("bapo_no_retry", 5, True, 0, False, True, 0.28),
        ("bapo_no_reuse", 5, True, 0, True, False, 0.28),
    ],
)
def test_each_preset_switches_what_its_name_says(
    algorithm, v, filtered, rounds, retry, reuse, clip_high
):
    recipe = resolve(algorithm=algorithm)
    adaptation = recipe.adaptation
    assert (adaptation.sync_every, adaptation.filter_fresh) == (v, filtered)
    assert (adaptation.max_resample_rounds, adaptation.retry) == (rounds, retry)
    assert (adaptation.reuse, recipe.objective.clip_high) == (reuse, clip_high)


def test_a_recipe_with_its_own_delay_leaves_an_on_policy_preset_on_policy():
    own = {"behavior_sync_every": 2}
    assert resolve(algorithm="grpo", adaptation=own).adaptation.sync_every == 1
    assert resolve(algorithm="dapo", adaptation=own).adaptation.sync_every == 1
    assert resolve(algorithm="bapo", adaptation=own).adaptation.sync_every == 2


def test_there_are_no_presets_beyond_those_tested():
    assert list(PRESETS) == [
        "grpo",
        "grpo_delayed",
        "filtered",
        "dapo",
        "bapo",
        "bapo_no_retry",
        "bapo_no_reuse",
    ]


def test_the_defaults_are_the_papers():
    adaptation, objective = AdaptationSettings(), ObjectiveSettings()
    assert (adaptation.behavior_sync_every, adaptation.retry_every) == (5, 5)
    assert (adaptation.hard_threshold, adaptation.reuse_window) == (1 / 8, 3)
    assert (adaptation.reuse_low_range, adaptation.reuse_high_range) == ((0, 0.375), (0.25, 0.5))
    assert (objective.clip_low, objective.clip_high, objective.importance_cap) == (0.2, 0.28, 3)
    assert resolve().rollout.group_size == 8
    assert resolve().training.learning_rate == 1e-6


def test_a_list_of_verifiers_is_refused_with_the_way_to_join_them():
    said = message(reward={"verifier": ["a:b", "c:d"]})
    assert said.startswith("'reward.verifier' names 2 functions, but one has to decide")


def test_a_penalty_for_length_cannot_begin_before_the_first_token():
    said = message("reward.overlong_tokens=300", "rollout.max_new_tokens=256")
    assert said == (
        "'reward.overlong_tokens' is 300, more than 'rollout.max_new_tokens' (256); lower it."
    )
