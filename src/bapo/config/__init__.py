"""Settings, presets and recipes."""

from bapo.config.fields import Meaning, meaning_of, nearest_name, parse_section, setting
from bapo.config.presets import PRESETS
from bapo.config.program import program
from bapo.config.recipe import (
    SECTIONS,
    Recipe,
    find_recipe,
    load_recipe,
    parse_task_options,
    read_yaml,
    recipe_as_mapping,
    resolve_recipe,
    write_recipe,
)
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
from bapo.config.warmstart import (
    ArchitectureSettings,
    ColdStartSettings,
    WarmstartRecipe,
    load_warmstart_recipe,
)

__all__ = [
    "PRESETS",
    "SECTIONS",
    "AdaptationSettings",
    "AdapterSettings",
    "ArchitectureSettings",
    "ColdStartSettings",
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
    "WarmstartRecipe",
    "find_recipe",
    "load_recipe",
    "load_warmstart_recipe",
    "meaning_of",
    "nearest_name",
    "parse_section",
    "parse_task_options",
    "program",
    "read_yaml",
    "recipe_as_mapping",
    "resolve_recipe",
    "setting",
    "write_recipe",
]
