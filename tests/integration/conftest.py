"""The command line in this process."""

import sys

import pytest

from bapo.cli import main


@pytest.fixture
def bapo(monkeypatch, capsys):
    """Runs the command line with some arguments: exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bapo", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = leave.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
