"""Reads the source tree for the tests that hold its shape."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[2] / "src" / "bapo"
FILES = sorted(SOURCE.rglob("*.py"))


class Import(NamedTuple):
    """One module that a file imports.

    Attributes:
        line: Where.
        module: Its dotted name; for `from package import name` that is `package.name`.
    """

    line: int
    module: str


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def package_of(path: Path) -> str:
    """The package that a file's relative imports start from, such as `bapo.reward`."""
    return ".".join(("bapo", *path.relative_to(SOURCE).parent.parts))


def room_of(path: Path) -> str:
    """The first name under `bapo`: a package, or a single module such as `types`."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports_of(tree: ast.AST, package: str) -> Iterator[Import]:
    """Every import in a file, at any depth, those by name with `import_module` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(node.lineno, f"{_origin(node, package)}.{alias.name}")
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            yield Import(node.lineno, _start_of_text(node.args[0]) if node.args else "")


def _origin(node: ast.ImportFrom, package: str) -> str:
    """What stands between `from` and `import`, dots at its beginning resolved."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def _called(node: ast.Call) -> str:
    """The last name of what is called: `import_module` in `importlib.import_module(...)`."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _start_of_text(node: ast.expr) -> str:
    """A text, or as much of a text put together as is known beforehand."""
    if isinstance(node, ast.JoinedStr) and node.values:
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
