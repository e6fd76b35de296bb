"""The tasks that a recipe may name. A new one is a file in this room and a line in `TASKS`.

Besides these, `gym:NAME` is the task NAME of reasoning-gym.
"""

from collections.abc import Callable, Mapping
from typing import Final, cast

from bapo.config import RewardSettings, TaskSettings, nearest_name
from bapo.errors import SettingError
from bapo.tasks.base import Task, WorkedTask
from bapo.tasks.blind import BlindTask
from bapo.tasks.countdown import build_countdown
from bapo.tasks.dataset import build_dataset
from bapo.tasks.geometry import build_geometry
from bapo.tasks.grid_path import build_grid_path
from bapo.tasks.gym import build_gym
from bapo.tasks.gym_problems import PREFIX
from bapo.tasks.known_sets import KNOWN_SETS, build_known_set
from bapo.tasks.mathematics import build_mathematics
from bapo.tasks.rush_hour import build_rush_hour

TaskBuilder = Callable[[TaskSettings], Task]


def _known(name: str) -> TaskBuilder:
    return lambda settings: build_known_set(name, settings.options, settings.bad_share_allowed)


TASKS: Final[Mapping[str, TaskBuilder]] = {
    "countdown": lambda settings: build_countdown(settings.options),
    "countdown-3": lambda settings: build_countdown(settings.options, (3,)),
    "countdown-4": lambda settings: build_countdown(settings.options, (4,)),
    "countdown-34": lambda settings: build_countdown(settings.options, (3, 4)),
    "math": lambda settings: build_mathematics(settings.options),
    "math-1": lambda settings: build_mathematics(settings.options, (1,)),
    "math-2": lambda settings: build_mathematics(settings.options, (2,)),
    "math-3": lambda settings: build_mathematics(settings.options, (3,)),
    "math-4": lambda settings: build_mathematics(settings.options, (4,)),
    "math-5": lambda settings: build_mathematics(settings.options, (5,)),
    "geometry": lambda settings: build_geometry(settings.options),
    "grid-path": lambda settings: build_grid_path(settings.options),
    "rush-hour": lambda settings: build_rush_hour(settings.options),
    "dataset": lambda settings: build_dataset(settings.options, settings.bad_share_allowed),
    **{name: _known(name) for name in KNOWN_SETS},
}


def build_task(settings: TaskSettings) -> Task:
    """The task that a recipe names, with its own settings checked and its data read.

    Raises:
        SettingError: There is no such task, or one of its settings is wrong.
        DataError: Its data cannot be used.
    """
    if settings.name.startswith(PREFIX):
        task = build_gym(settings.name.removeprefix(PREFIX), settings.options)
    elif settings.name in TASKS:
        task = TASKS[settings.name](settings)
    else:
        known = nearest_name(settings.name, [*TASKS, f"{PREFIX}NAME"])
        raise SettingError(f"Unknown task '{settings.name}': {known}")
    return BlindTask(task) if settings.blank_images else task


def build_worked_task(settings: TaskSettings) -> WorkedTask:
    """The task that a recipe names, for a cold start on its worked examples.

    Raises:
        SettingError: As `build_task`, or the task has no worked examples.
        DataError: As `build_task`.
    """
    task = build_task(settings)
    if not hasattr(task, "worked_example"):
        raise SettingError(
            f"The task '{settings.name}' has no worked examples for a cold start; name one that "
            "has, such as countdown."
        )
    return cast("WorkedTask", task)


def verifier_name(settings: RewardSettings, task: Task) -> str:
    """The verifier of a run: the one that the recipe names, or else the task's own.

    Raises:
        SettingError: Neither names one.
    """
    name = settings.verifier or task.verifier
    if not name:
        raise SettingError(
            f"'reward.verifier' is missing, and the task '{task.name}' brings none of its own: "
            "name a function, such as my_verifier.py:verify."
        )
    return name
