"""House rules that no linter holds: lengths, broad excepts, code that runs data, documentation."""

import ast
import re
from pathlib import Path

import pytest

from tests.contract.source_tree import FILES, SOURCE, imports_of, package_of, parsed

LONGEST_FILE = 400
LONGEST_FUNCTION = 70
GIVES_A_REASON = re.compile(r"\b(long|longer|one piece) (because|so that)\b", re.IGNORECASE)

# Both run a user's own code in a worker process, where whatever it raises becomes a verdict or the
# one sentence that stops the run before its first step. A check of the self-test tries parts that
# may be broken in any way; one of its misdeeds is to swallow every exception. The scorers of
# reasoning-gym may raise anything on a text that is no answer. What ends the watch's thread is
# raised again, whatever it is, in the thread that uses the pool.
MAY_CATCH_ALL = {
    *("reward/worker.py", "reward/loading.py", "reward/watch.py"),
    *("selftest/results.py", "selftest/misdeeds.py"),
    "reward/verifiers/gym.py",
}

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "load_all"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("os", "system"),
    ("os", "popen"),
}
UNSAFE_ARGUMENTS = {"allow_pickle", "shell"}

DOCS = Path(__file__).resolve().parents[2] / "docs"

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


def too_long(source: str) -> list[str]:
    """Functions over the limit whose docstring does not say why, and the file if it is."""
    found = []
    lines = source.count("\n")
    tree = ast.parse(source)
    if lines > LONGEST_FILE and not _has_reason(tree):
        found.append(f"the file has {lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION and not _has_reason(node):
                found.append(f"{node.name} has {length} lines")
    return found


def _has_reason(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return GIVES_A_REASON.search(" ".join((ast.get_docstring(node) or "").split())) is not None


def broad_excepts(source: str) -> list[int]:
    """Lines of handlers that catch everything, alone or in a tuple."""
    handlers = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)]
    return [handler.lineno for handler in handlers if _catches_all(handler.type)]


def _catches_all(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(_catches_all(item) for item in caught.elts)
    return caught is None or (
        isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException")
    )


def runs_data(source: str, package: str = "bapo") -> list[str]:
    """Calls and imports through which a file, a text or a model's answer could run as code."""
    tree = ast.parse(source)
    modules = (module.partition(".")[0] for _, module in imports_of(tree, package))
    found = [module for module in modules if module in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [k.arg for k in node.keywords if k.arg in UNSAFE_ARGUMENTS and not _off(k)]
            if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_NAMES:
                found.append(node.func.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = (node.value.id, node.attr)
            found += [".".join(owner)] if owner in UNSAFE_ATTRIBUTES else []
    return found


def _off(keyword: ast.keyword) -> bool:
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is False


def declared_settings(tree: ast.Module) -> list[tuple[str, str]]:
    """Name and text of every setting that a file declares."""
    return [
        (node.target.id, _text(node.value.args[1]))
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "setting"
    ]


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@each_file
def test_files_and_functions_are_short_or_say_why_not(path):
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_what_is_too_long_is_found_and_a_reason_lets_it_pass():
    body = "    pass\n" * 70
    reason = '    """Long because the steps share\n    one state."""\n'
    assert too_long(f"def f():\n{body}") == ["f has 71 lines"]
    assert too_long(f"def f():\n{body[9:]}") == []
    assert too_long(f'def f():\n    """Does it all."""\n{body}') == ["f has 72 lines"]
    assert too_long(f"def f():\n{reason}{body}") == []
    assert too_long("x = 1\n" * 401) == ["the file has 401 lines"]
    assert too_long("x = 1\n" * 400) == []


@each_file
def test_nothing_but_the_worker_catches_everything(path):
    found = broad_excepts(path.read_text(encoding="utf-8"))
    assert bool(found) == (str(path.relative_to(SOURCE)) in MAY_CATCH_ALL), found


@pytest.mark.parametrize(
    ("clause", "broad"),
    [
        ("except:", True),
        ("except Exception:", True),
        ("except BaseException as error:", True),
        ("except (OSError, Exception):", True),
        ("except (OSError, ValueError):", False),
        ("except KeyboardInterrupt:", False),
    ],
)
def test_a_broad_except_is_found(clause, broad):
    assert broad_excepts(f"try:\n    f()\n{clause}\n    pass\n") == ([3] if broad else [])


@each_file
def test_no_file_runs_data_as_code(path):
    assert runs_data(path.read_text(encoding="utf-8"), package_of(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "torch.load(path, weights_only=True)",
        "load = yaml.load",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=flag)",
    ],
)
def test_what_runs_data_is_found(source):
    assert len(runs_data(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "yaml.safe_load(text)", "np.load(p, allow_pickle=False)", "re.compile(p)"],
)
def test_what_only_looks_like_running_data_is_let_through(source):
    assert runs_data(source) == []


def test_every_setting_has_a_text_and_stands_in_the_docs():
    pages = "".join(
        (DOCS / name).read_text(encoding="utf-8") for name in ("recipes.md", "tasks.md")
    )
    settings = [entry for path in FILES for entry in declared_settings(parsed(path))]
    assert len(settings) > 80
    for name, text in settings:
        assert len(text) > 3, name
        assert re.search(rf"^\| `\w+\.{name}` \|", pages, re.MULTILINE), name
