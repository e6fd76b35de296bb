"""Off-policy reinforcement learning with verifiable rewards, built around BAPO.

    from bapo import resolve_recipe, train

The names below are loaded when they are first used: `import bapo` alone brings neither torch nor
any other library along, as verifier processes and `bapo --help` need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bapo.config import Recipe, load_recipe, resolve_recipe
    from bapo.reporting import write_report
    from bapo.training import train

__all__ = ["Recipe", "load_recipe", "resolve_recipe", "train", "write_report"]

_HOMES = {
    "Recipe": "bapo.config",
    "load_recipe": "bapo.config",
    "resolve_recipe": "bapo.config",
    "train": "bapo.training",
    "write_report": "bapo.reporting",
}


def __getattr__(name: str) -> Any:
    """The public name `name`, from the room that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bapo' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
