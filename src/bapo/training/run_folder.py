"""The files of a run: what DESIGN calls the run folder, written as the run goes."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bapo.config import Recipe, write_recipe
from bapo.errors import RunFolderError

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.jsonl"
EXAMPLES = "examples.jsonl"
LEDGER = "ledger.jsonl"
SUMMARY = "summary.json"


class RunFolder:
    """The folder of one run; every line is on its way to disk before the next step begins.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe: Recipe, device: torch.device) -> "RunFolder":
        """Makes the folder and writes recipe.yaml and environment.json.

        Args:
            path: A folder that does not exist yet or is empty.
            recipe: The resolved recipe.
            device: Where the policy is.

        Raises:
            RunFolderError: The folder is not empty, or cannot be written to.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise RunFolderError(
                    f"The folder '{path}' is not empty; name another with --output, or remove it."
                )
            write_recipe(recipe, path / RECIPE)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise RunFolderError(f"The folder '{path}' cannot be written to: {error}.") from error
        folder = cls(path)
        folder.write_json("environment.json", _environment(recipe, device))
        return folder

    def append(self, name: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Adds one JSON object a line to a file of the folder."""
        lines = "".join(json.dumps(dict(item), allow_nan=False) + "\n" for item in items)
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(lines)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a JSON file of the folder whole."""
        text = json.dumps(dict(content), indent=2, allow_nan=False) + "\n"
        (self.path / name).write_text(text, encoding="utf-8")


def _environment(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Versions, hardware, seed and command."""
    return {
        "bapo": version("bapo"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "seed": recipe.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
