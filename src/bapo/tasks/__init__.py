"""Tasks: where prompts come from and how answers are verified."""

from bapo.tasks.base import Task, WorkedTask
from bapo.tasks.blind import chance
from bapo.tasks.pictures import open_image
from bapo.tasks.registry import TASKS, build_task, build_worked_task, verifier_name
from bapo.tasks.screening import Check, QuarantinedRow, ScreenedData, faults_of, screen

__all__ = [
    "TASKS",
    "Check",
    "QuarantinedRow",
    "ScreenedData",
    "Task",
    "WorkedTask",
    "build_task",
    "build_worked_task",
    "chance",
    "faults_of",
    "open_image",
    "screen",
    "verifier_name",
]
