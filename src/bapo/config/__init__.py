"""Settings, presets and recipes."""

from bapo.config.fields import Meaning, meaning_of, nearest_name, parse_section, setting
from bapo.config.presets import PRESETS
from bapo.config.recipe import (
    SECTIONS,
    Recipe,
    find_recipe,
    load_recipe,
    read_yaml,
    recipe_as_mapping,
    resolve_recipe,
    write_recipe,
)
from bapo.config.settings import (
    AdaptationSettings,
    EvaluationSettings,
    LoggingSettings,
    ModelSettings,
    ObjectiveSettings,
    RewardSettings,
    RolloutSettings,
    TaskSettings,
    TrainingSettings,
)

__all__ = [
    "PRESETS",
    "SECTIONS",
    "AdaptationSettings",
    "EvaluationSettings",
    "LoggingSettings",
    "Meaning",
    "ModelSettings",
    "ObjectiveSettings",
    "Recipe",
    "RewardSettings",
    "RolloutSettings",
    "TaskSettings",
    "TrainingSettings",
    "find_recipe",
    "load_recipe",
    "meaning_of",
    "nearest_name",
    "parse_section",
    "read_yaml",
    "recipe_as_mapping",
    "resolve_recipe",
    "setting",
    "write_recipe",
]
