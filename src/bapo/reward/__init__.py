"""Verdicts: any Python function as a verifier, in worker processes that can be killed.

The names below are loaded when they are first used: a worker process imports this package too, and
must start in milliseconds and in little memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bapo.reward.checks import check_verifier, column_faults
    from bapo.reward.groups import GroupVerifier
    from bapo.reward.latency import SlowSample
    from bapo.reward.pool import VerifierPool

__all__ = [
    "GroupVerifier",
    "SlowSample",
    "VerifierPool",
    "check_verifier",
    "column_faults",
]

_HOMES = {
    "GroupVerifier": "groups",
    "SlowSample": "latency",
    "VerifierPool": "pool",
    "check_verifier": "checks",
    "column_faults": "checks",
}


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bapo.reward' has no attribute '{name}'")
    return getattr(import_module(f"bapo.reward.{_HOMES[name]}"), name)
