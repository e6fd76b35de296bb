"""Tasks: where prompts come from and how answers are verified."""

from bapo.tasks.base import Task, WorkedTask
from bapo.tasks.registry import TASKS, build_task, build_worked_task, verifier_name

__all__ = ["TASKS", "Task", "WorkedTask", "build_task", "build_worked_task", "verifier_name"]
