"""Every error that bapo raises on purpose.

Each class inherits the standard exception that it refines, so that callers may catch either. A
message is one sentence: what is wrong, where, and the cure. `exit_code` is what the command line
returns for it.
"""

from typing import ClassVar


class BapoError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class SettingError(BapoError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or at odds with another."""

    exit_code = 2


class RecipeError(BapoError, ValueError):
    """A recipe file is missing, is not YAML, or has the wrong shape."""

    exit_code = 2


class ModelError(BapoError, ValueError):
    """A model or its tokenizer is missing, unreadable, or cannot do what the recipe asks."""

    exit_code = 2


class DataError(BapoError, ValueError):
    """A data set is missing, empty, malformed, or does not fit the model."""

    exit_code = 2


class VerifierError(BapoError, ValueError):
    """A verifier cannot be imported, has the wrong signature, or fails on its own golden cases."""

    exit_code = 2


class RunFolderError(BapoError, OSError):
    """A run folder is missing, in use, unreadable, or lacks what was asked of it."""

    exit_code = 2


class LedgerError(RunFolderError):
    """The files of a run contradict one another."""

    exit_code = 1


class CheckpointError(RunFolderError):
    """A checkpoint cannot be written, or one that is there is not what was written."""

    exit_code = 1


class RunInterruptedError(BapoError, RuntimeError):
    """The run was asked to leave before its end, and saved what it had."""


class NoUpdateError(BapoError, RuntimeError):
    """A run went to its end and never changed its policy."""


class StaleEngineError(BapoError, RuntimeError):
    """The rollout engine does not sample from the weights that it claims to."""


class RunStoppedError(BapoError, RuntimeError):
    """The run stopped itself: too many invalid verdicts, or too many non-finite steps in a row."""

    exit_code = 3
