"""A command that is named to be copied can be called where it is read."""

import sys

import pytest

from bapo.config import program


def executable(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("called", "on_path", "expected"),
    [
        ("my venv/bin/bapo", "my venv/bin", "bapo"),
        ("my venv/bin/bapo", "other/bin", "'my venv/bin/bapo'"),
        ("my venv/bin/bapo", "", "'my venv/bin/bapo'"),
        ("products.py", "my venv/bin", "bapo"),
        ("products.py", "other/bin", "'{here}/my venv/bin/bapo'"),
        ("src/bapo/__main__.py", "", "'{here}/my venv/bin/bapo'"),
    ],
)
def test_bapo_is_named_so_that_it_is_the_same_one_again(
    tmp_path, monkeypatch, called, on_path, expected
):
    executable(tmp_path / "my venv/bin/bapo")
    executable(tmp_path / "other/bin/bapo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / on_path) if on_path else "")
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv/bin/python"))
    assert program() == expected.format(here=tmp_path)


def test_an_interpreter_without_a_command_beside_it_is_named_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["src/bapo/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python3"))
    assert program() == f"{tmp_path}/bin/python3 -m bapo"
