"""A command that is named to be copied can be called where it is read."""

import sys

import pytest

from bapo.cli.options import program


@pytest.mark.parametrize(
    ("called", "on_path", "expected"),
    [
        (".venv/bin/bapo", False, ".venv/bin/bapo"),
        ("my tools/bapo", False, "'my tools/bapo'"),
        (".venv/bin/bapo", True, "bapo"),
        ("products.py", False, "bapo"),
    ],
)
def test_bapo_is_named_by_its_path_where_its_name_is_not_found(
    tmp_path, monkeypatch, called, on_path, expected
):
    if on_path:
        (tmp_path / "bapo").write_text("#!/bin/sh\n")
        (tmp_path / "bapo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [called])
    assert program() == expected
