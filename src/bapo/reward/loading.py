"""Finds the function that `module:function` or `file.py:function` names and reads its signature.

Loading runs in the worker, never in the training process; standard library only.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

_FILE_MODULE = "bapo_verifier_file"
_MACHINERY = (str(Path(__file__).parent), str(Path(importlib.__file__).parent))


class LoadError(Exception):
    """One sentence: why there is no verifier."""


class Interface(NamedTuple):
    """Which columns a verifier takes, and its golden cases.

    Attributes:
        named: Columns that it names.
        required: Those of them without a default.
        takes_any: Whether it takes every column (`**columns`).
        golden: `(completion, columns, expected_correct)` from its module's `GOLDEN`; a completion
            is a text or a list of messages.
        checks_columns: Whether its module has a `check_columns`.
    """

    named: list[str]
    required: list[str]
    takes_any: bool
    golden: list[tuple[Any, dict[str, Any], bool]]
    checks_columns: bool


class Verifier(NamedTuple):
    """A loaded verifier.

    Attributes:
        function: The verifier.
        interface: What it takes.
        check: The `check_columns` of its module: says of one row's columns why they are useless.
    """

    function: Callable[..., Any]
    interface: Interface
    check: Callable[..., Any] | None


def resolve_name(name: str) -> str:
    """The verifier's name with an absolute path in place of `file.py`.

    Raises:
        LoadError: It has not the right form, or there is no such file.
    """
    place, _, attribute = name.rpartition(":")
    is_file = place.endswith(".py")
    if not attribute.isidentifier() or not (
        is_file or all(part.isidentifier() for part in place.split("."))
    ):
        raise LoadError(
            f"The verifier '{name}' must be named as module:function or file.py:function."
        )
    if not is_file:
        return name
    path = Path(place).absolute()
    if not path.is_file():
        raise LoadError(f"The verifier '{name}' was not found: there is no file '{path}'.")
    return f"{path}:{attribute}"


def load_verifier(name: str) -> Verifier:
    """Imports the module and takes the function from it.

    Args:
        name: `module:function`, or `file.py:function` with an absolute path.

    Raises:
        LoadError: It cannot be imported, is not there, or has the wrong signature.
    """
    place, _, attribute = name.rpartition(":")
    module = _import(place, name)
    function = getattr(module, attribute, None)
    if function is None:
        raise LoadError(f"The verifier '{name}' was not found: '{place}' has no '{attribute}'.")
    if not callable(function):
        raise LoadError(
            f"The verifier '{name}' is a {type(function).__name__}; it must be a function."
        )
    named, required, takes_any = _columns_of(function, name)
    golden = _golden_cases(getattr(module, "GOLDEN", []), name)
    check = getattr(module, "check_columns", None)
    if check is not None and not callable(check):
        raise LoadError(f"check_columns beside the verifier '{name}' must be a function.")
    interface = Interface(named, required, takes_any, golden, check is not None)
    return Verifier(function, interface, check)


def _import(place: str, name: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _import_file(Path(place))
        return importlib.import_module(place)
    except MemoryError as error:
        raise LoadError(
            f"The verifier '{name}' cannot be imported in the memory it is given; raise "
            "'reward.memory_megabytes'."
        ) from error
    # Importing runs the user's code, which may raise anything, SystemExit included; whatever it
    # is becomes the sentence that stops the run before its first step.
    except BaseException as error:
        raise LoadError(f"The verifier '{name}' cannot be imported: {describe(error)}.") from error


def _import_file(path: Path) -> ModuleType:
    """The module in a file, its folder on the path as if it had been run as a script."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(_FILE_MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_FILE_MODULE] = module
    spec.loader.exec_module(module)
    return module


def _columns_of(function: Callable[..., Any], name: str) -> tuple[list[str], list[str], bool]:
    """Named columns, required columns, and whether any other is taken too."""
    if inspect.iscoroutinefunction(function):
        raise LoadError(f"The verifier '{name}' is a coroutine; it must be a plain function.")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise LoadError(f"The verifier '{name}' has no signature that can be read.") from error
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if positional or not (takes_any or any(p.name == "completions" for p in by_name)):
        raise LoadError(
            f"The verifier '{name}' has the signature {inspect.signature(function)}; it must take "
            "'completions' and columns by name: def verify(completions, **columns)."
        )
    columns = [p for p in by_name if p.name != "completions"]
    required = [p.name for p in columns if p.default is p.empty]
    return [p.name for p in columns], required, takes_any


def _golden_cases(cases: Any, name: str) -> list[tuple[Any, dict[str, Any], bool]]:
    """The module's `GOLDEN`, checked."""
    checked: list[tuple[Any, dict[str, Any], bool]] = []
    for case in cast("list[Any]", cases) if isinstance(cases, (list, tuple)) else [cases]:
        match case:
            case (completion, columns, bool(expected)) if isinstance(
                completion, (str, list)
            ) and isinstance(columns, dict):
                given = cast("Any", completion)
                checked.append((given, cast("dict[str, Any]", columns), expected))
            case _:
                raise LoadError(
                    f"GOLDEN beside the verifier '{name}' must be a list of (completion, columns, "
                    f"expected_correct), but holds {str(case)[:100]!r}."
                )
    return checked


def describe(error: BaseException) -> str:
    """The error's class and text on one line, and where in the user's file it was raised."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    where = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and str(Path(file).parent) not in _MACHINERY:
            where = f" ({Path(file).name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def search_path() -> list[str]:
    """Where modules are looked for here, without relative entries: workers look there too."""
    return [os.path.abspath(entry) if os.path.exists(entry or ".") else entry for entry in sys.path]
