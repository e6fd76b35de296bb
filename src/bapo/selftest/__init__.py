"""The proof of what docs/reliability.md promises, on the machine that it runs on.

The names below are loaded when they are first used: verifier processes import `misdeeds` from this
package, and must start in milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bapo.selftest.bench import Bench
    from bapo.selftest.results import Check, Outcome, Result, carry_out
    from bapo.selftest.suite import Form, checks

__all__ = ["Bench", "Check", "Form", "Outcome", "Result", "carry_out", "checks"]

_HOMES = {
    "Bench": "bench",
    "Check": "results",
    "Form": "suite",
    "Outcome": "results",
    "Result": "results",
    "carry_out": "results",
    "checks": "suite",
}


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bapo.selftest' has no attribute '{name}'")
    return getattr(import_module(f"bapo.selftest.{_HOMES[name]}"), name)
