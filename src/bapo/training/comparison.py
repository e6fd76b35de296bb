"""Several algorithms and seeds on one recipe, each in a run folder of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bapo.config import Recipe, load_recipe, read_yaml, recipe_as_mapping
from bapo.errors import RunFolderError
from bapo.training.progress import Progress
from bapo.training.run import train
from bapo.training.run_folder import RECIPE, SUMMARY


def planned_runs(
    recipe: str | Path,
    overrides: Sequence[str],
    algorithms: Sequence[str],
    seeds: Sequence[int],
    output: Path,
) -> list[tuple[Recipe, Path]]:
    """The runs of a comparison, resolved and checked before the first one starts.

    Args:
        recipe: The recipe that all of them share.
        overrides: Settings for all of them.
        algorithms: Preset names.
        seeds: The runs' seeds.
        output: Run folders are `output/<algorithm>/seed-<n>`.

    Returns:
        Recipes and folders: every algorithm with the first seed, then with the next, so that a
        comparison that is cut short has something of each.

    Raises:
        SettingError: An algorithm or a setting is wrong.
        RunFolderError: One of the folders holds a finished run of another recipe.
    """
    plan = [
        (
            load_recipe(recipe, [*overrides, f"algorithm={algorithm}", f"seed={seed}"]),
            output / algorithm / f"seed-{seed}",
        )
        for seed in seeds
        for algorithm in algorithms
    ]
    for resolved, folder in plan:
        _is_finished(resolved, folder)
    return plan


def train_unless_finished(
    recipe: Recipe, folder: Path, progress: Progress
) -> dict[str, Any] | None:
    """Trains, goes on with a run that was ended, or leaves a finished one as it is.

    Returns:
        The summary, or None where the run was finished already.

    Raises:
        RunFolderError: The folder holds a run of another recipe, or one without a checkpoint to
            go on from.
    """
    if _is_finished(recipe, folder):
        return None
    begun = (folder / RECIPE).is_file()
    return train(recipe, folder, resume=begun, progress=progress)


def _is_finished(recipe: Recipe, folder: Path) -> bool:
    """Whether a folder holds a finished run of a recipe; a `RunFolderError` for another one's."""
    if not (folder / SUMMARY).is_file():
        return False
    if read_yaml(folder / RECIPE) != recipe_as_mapping(recipe):
        raise RunFolderError(
            f"The folder '{folder}' holds a finished run of another recipe; name another --output."
        )
    return True
