"""A recipe: one YAML file that says everything about a run, and how it is resolved.

Values are settled in this order, later ones winning: the defaults in settings.py, the preset that
`algorithm` names, the recipe file, `section.key=value` overrides.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from bapo.config.fields import nearest_name, parse_section
from bapo.config.presets import PRESETS
from bapo.config.settings import (
    AdaptationSettings,
    AdapterSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    ObjectiveSettings,
    RewardSettings,
    RolloutSettings,
    TaskSettings,
    TrainingSettings,
)
from bapo.config.yaml_text import load_yaml
from bapo.errors import RecipeError, SettingError

T = TypeVar("T")

SECTIONS = {
    "adapter": AdapterSettings,
    "adaptation": AdaptationSettings,
    "objective": ObjectiveSettings,
    "rollout": RolloutSettings,
    "reward": RewardSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "logging": LoggingSettings,
}

_ARCHITECTURE = {"kind", "layers", "hidden", "heads", "feed_forward", "positions"}
"""What a warm-start recipe says of its model; a training recipe names one by its path."""

LARGEST_SEED = 2**32 - 1
"""Of NumPy's global generator, which libraries may draw from."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A resolved recipe: every setting has its final value.

    Attributes:
        model: The model to train.
        task: Prompts and verifier.
        algorithm: Name of the preset that the sections started from.
        seed: Every generator of the run derives from it.
        steps: Training steps.
    """

    model: ModelSettings
    task: TaskSettings
    algorithm: str = "bapo"
    seed: int = 0
    steps: int = 100
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    adaptation: AdaptationSettings = field(default_factory=AdaptationSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and resolves a recipe file.

    Args:
        path: A YAML file, or the name of one that comes with bapo, such as `countdown-demo`.
        overrides: `key=value` or `section.key=value`, values in YAML.

    Raises:
        RecipeError: The file is missing, is not a YAML mapping, or is for a cold start.
        SettingError: A setting is unknown, of the wrong type, out of range or at odds with others.
    """
    content = read_yaml(find_recipe(path))
    model = content.get("model")
    if isinstance(model, Mapping) and "path" not in model and _ARCHITECTURE & model.keys():
        raise RecipeError(
            f"The recipe '{path}' is for a cold start and not for training; use "
            f"'bapo warmstart {path} --output MODEL' instead."
        )
    return resolve_recipe(content, overrides)


def find_recipe(path: str | Path) -> Path:
    """The recipe file at `path`, or the one of that name that comes with bapo."""
    candidate = Path(path)
    if candidate.is_file():
        return candidate
    name = candidate.name.removesuffix(".yaml")  # not the stem: a name may hold a dot
    installed = Path(str(resources.files("bapo"))) / "recipes"
    checkout = Path(__file__).resolve().parents[3] / "recipes"
    for folder in (installed, checkout):
        shipped = folder / f"{name}.yaml"
        if shipped.is_file() and candidate.parent in (Path(), Path("recipes")):
            return shipped
    names = sorted({p.stem for folder in (installed, checkout) for p in folder.glob("*.yaml")})
    raise RecipeError(f"There is no recipe '{path}': {nearest_name(name, names)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, read without running anything that it holds."""
    try:
        content: Any = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = _reason(error)
        raise RecipeError(f"The recipe '{path}' is not valid YAML: {reason}.") from None
    except OSError as error:
        raise RecipeError(f"The recipe '{path}' cannot be read: {error.strerror}.") from None
    if content is None:
        raise RecipeError(f"The recipe '{path}' is empty; it needs at least a model and a task.")
    if not isinstance(content, dict):
        raise RecipeError(f"The recipe '{path}' must be a mapping of settings, but is {content!r}.")
    return cast("dict[str, Any]", content)


def _reason(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """What is wrong with a YAML file, and in which line where that is known."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 at byte {error.start + 1}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split()).rstrip(".")


def resolve_recipe(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Settles every value of a recipe.

    Args:
        content: The recipe as plain values, as read from YAML.
        overrides: `key=value` or `section.key=value`, values in YAML.

    Returns:
        The recipe with every default filled in.

    Raises:
        SettingError: A setting is unknown, of the wrong type, out of range or at odds with others.
    """
    merged = merge_recipe(content, overrides)
    known = [item.name for item in fields(Recipe)]
    for name in merged:
        if name not in known:
            raise SettingError(f"Unknown setting '{name}': {nearest_name(str(name), known)}")
    algorithm = merged.get("algorithm", "bapo")
    if not isinstance(algorithm, str) or algorithm not in PRESETS:
        raise SettingError(
            f"Unknown algorithm '{algorithm}': {nearest_name(str(algorithm), list(PRESETS))}"
        )
    _check_one_verifier(merged.get("reward", {}).get("verifier"))
    preset = PRESETS[algorithm]
    sections = {
        name: parse_section(kind, {**preset.get(name, {}), **merged.get(name, {})}, name)
        for name, kind in SECTIONS.items()
    }
    recipe = Recipe(
        model=parse_section(ModelSettings, merged.get("model", {}), "model"),
        task=parse_section(TaskSettings, merged.get("task", {}), "task"),
        algorithm=algorithm,
        seed=whole_number(merged.get("seed", 0), "seed", 0, LARGEST_SEED),
        steps=whole_number(merged.get("steps", 100), "steps", 1),
        **cast("dict[str, Any]", sections),
    )
    _check_together(recipe)
    return recipe


def merge_recipe(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Short forms written out and overrides applied; nothing is checked yet but their form."""
    merged = _normalise(content)
    for override in overrides:
        _apply_override(merged, override)
    return _normalise(merged)


def recipe_as_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, every default written out; `resolve_recipe` takes it back."""
    plain = as_plain_values(dataclasses.asdict(recipe))
    order = ["algorithm", "model", "task", "seed", "steps", *SECTIONS]
    task = plain["task"]
    options = task.pop("options")
    plain["task"] = {**task, **options}
    return {name: plain[name] for name in order}


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe as YAML, every default written out."""
    path.write_text(yaml.safe_dump(recipe_as_mapping(recipe), sort_keys=False), encoding="utf-8")


def as_plain_values(value: Any) -> Any:
    """Tuples as lists, so that YAML and JSON can hold them."""
    if isinstance(value, dict):
        return {key: as_plain_values(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [as_plain_values(item) for item in cast("Sequence[Any]", value)]
    return value


def _normalise(content: Mapping[str, Any]) -> dict[str, Any]:
    """Short forms written out: `model: NAME`, `task: NAME`, a task's settings beside its name."""
    merged = {str(name): value for name, value in content.items()}
    if isinstance(merged.get("model"), str):
        merged["model"] = {"path": merged["model"]}
    if isinstance(merged.get("task"), str):
        merged["task"] = {"name": merged["task"]}
    for name in ("model", "task", *SECTIONS):
        section = merged.get(name)
        if section is None:
            merged.pop(name, None)
        elif not isinstance(section, Mapping):
            raise SettingError(f"'{name}' must be a mapping of settings, but is {section!r}.")
        else:
            merged[name] = dict(cast("Mapping[str, Any]", section))
    task = merged.get("task", {})
    shared = {item.name for item in fields(TaskSettings)}
    own = {key: task.pop(key) for key in list(task) if key not in shared}
    if own:
        options: Any = task.get("options", {})
        if not isinstance(options, Mapping):
            raise SettingError(f"'task.options' must be a mapping, but is {options!r}.")
        task["options"] = {**options, **own}
    return merged


def _apply_override(merged: dict[str, Any], override: str) -> None:
    """Sets one `key=value` or `section.key=value` in place."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise SettingError(f"The override '{override}' must have the form section.key=value.")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        raise SettingError(
            f"The value of the override '{override}' is not valid YAML; put a text with such signs "
            f"in double quotes, and all of it in single ones: '{path}=\"...\"'."
        ) from None
    section, dot, key = path.partition(".")
    if not dot:
        merged[section] = value
        return
    if isinstance(merged.get(section), str):
        merged.update(_normalise({section: merged[section]}))
    target = merged.setdefault(section, {})
    if not isinstance(target, dict):
        raise SettingError(f"The override '{override}' names a key of '{section}', which has none.")
    target[key] = value


def whole_number(value: Any, name: str, low: int, high: int | None = None) -> int:
    """`value` if it is a whole number from `low` to `high`, or a `SettingError` that names it."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and value >= low and (high is None or value <= high):
        return value
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    is_said = "is empty" if value is None else f"is {value!r}"
    raise SettingError(f"'{name}' must be a whole number {allowed}, but {is_said}.")


def parse_task_options(kind: type[T], options: Mapping[str, Any]) -> T:
    """A task's own settings, which stand in the section `task` beside those of every task."""
    return parse_section(kind, options, "task", [one.name for one in fields(TaskSettings)])


def _check_together(recipe: Recipe) -> None:
    """Raises a `SettingError` where settings that are each in range do not fit together."""
    if not recipe.model.path:
        raise SettingError("'model' is missing: name a folder, a Hub name, or embedded:countdown.")
    if not recipe.task.name:
        raise SettingError("'task' is missing: name one, such as countdown.")
    _check_adapter(recipe.adapter)
    _check_reward(recipe)
    training, adaptation = recipe.training, recipe.adaptation
    if training.updates_per_step > training.batch_groups:
        raise SettingError(
            f"'training.updates_per_step' is {training.updates_per_step}, but a batch has only "
            f"{training.batch_groups} groups; lower it or raise 'training.batch_groups'."
        )
    for name in ("reuse_fixed", "reuse_falling_start", "reuse_falling_rates"):
        low, high = getattr(adaptation, name)
        if low > high or (name == "reuse_falling_rates" and low == high):
            raise SettingError(f"'adaptation.{name}' is [{low}, {high}], but must rise.")
    ends = zip(adaptation.reuse_low_range, adaptation.reuse_high_range, strict=True)
    for strength, (low, high) in enumerate(ends):
        if low > high:
            raise SettingError(
                "'adaptation.reuse_low_range' must not lie above 'adaptation.reuse_high_range', "
                f"but does at r = {strength}: {low} > {high}."
            )
    longest = recipe.rollout.max_new_tokens + 1
    if recipe.rollout.token_budget < longest:
        raise SettingError(
            f"'rollout.token_budget' is {recipe.rollout.token_budget}, but one completion may need "
            f"{longest}."
        )


def _check_adapter(adapter: AdapterSettings) -> None:
    """Raises a `SettingError` for an adapter that cannot be, or one described but not asked for."""
    if adapter.dropout:
        raise SettingError(
            f"'adapter.dropout' is {adapter.dropout:g}, but must be 0: dropout makes the learner's "
            "log-probabilities differ from the sampler's, which looks like off-policyness."
        )
    if not adapter.rank and adapter != AdapterSettings():
        raise SettingError(
            "'adapter' is described, but 'adapter.rank' is 0, which means that there is none; give "
            "it a rank, such as 32, or leave the section out."
        )


def _check_one_verifier(name: Any) -> None:
    """Raises a `SettingError` for a list of verifiers, which TRL's users may be used to."""
    if isinstance(name, (list, tuple)):
        raise SettingError(
            f"'reward.verifier' names {len(cast('Sequence[Any]', name))} functions, but one has to "
            "decide what is correct; write a function that calls them and returns "
            "{'correct': ..., 'score': ...} for each answer."
        )


def _check_reward(recipe: Recipe) -> None:
    """Raises a `SettingError` where the penalty for length begins before the first token."""
    reward = recipe.reward
    if reward.overlong_tokens > recipe.rollout.max_new_tokens:
        raise SettingError(
            f"'reward.overlong_tokens' is {reward.overlong_tokens}, more than "
            f"'rollout.max_new_tokens' ({recipe.rollout.max_new_tokens}); lower it."
        )
