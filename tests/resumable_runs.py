"""Tiny runs that are ended and resumed, and what must be equal in the end, bit for bit."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bapo.config import Recipe, resolve_recipe
from bapo.selftest.comparing import json_lines, run_difference, tree_difference, without_seconds
from bapo.selftest.ingredients import PROMPTS, STEPS, make_ingredients, recipe_content
from bapo.training.progress import Silence

__all__ = [
    "PROMPTS",
    "STEPS",
    "DiedError",
    "DyingProgress",
    "Listener",
    "assert_same",
    "assert_same_run",
    "copy_of",
    "json_lines",
    "make_ingredients",
    "recipe_content",
    "recipe_of",
    "without_seconds",
]


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    """The recipe of `make_ingredients`, resolved."""
    return resolve_recipe(recipe_content(folder), overrides)


class DiedError(Exception):
    """Ends a run in this process, where it stands and without a chance to save."""


class DyingProgress(Silence):
    """Ends the run when a step has been written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def trained(self, step: int, steps: int, metrics: Mapping[str, Any]) -> None:
        if step == self._step:
            raise DiedError


class Listener(Silence):
    """Keeps the stages that it hears of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, text: str) -> None:
        self.heard.append(text)


def assert_same(left: Any, right: Any) -> None:
    """Two trees have the same shape, the same types and the same bits."""
    assert tree_difference(left, right, "tree") is None


def assert_same_run(run: Path, expected: Path, steps: int = STEPS) -> None:
    """Two finished runs are the same but for what clocks have said."""
    assert run_difference(run, expected, steps) is None


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a run folder, to be spoiled."""
    return Path(shutil.copytree(run, folder))
