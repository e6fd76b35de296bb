"""How bapo is called, for commands that are named to be copied."""

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """What calls this bapo again: its name where PATH leads to it, else its path.

    Python's own words where it was called as a module, or by a script, and no command `bapo` lies
    beside the interpreter.
    """
    called = Path(sys.argv[0])
    if called.name != "bapo":
        called = Path(sys.executable).with_name("bapo")
        if not called.is_file():
            return f"{shlex.quote(sys.executable)} -m bapo"
    found = shutil.which("bapo")
    by_name = found and called.is_file() and called.samefile(found)
    return "bapo" if by_name else shlex.quote(str(called))
