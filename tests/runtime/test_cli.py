"""The command that gathers the commands of the installed parts."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from protoplane_runtime import cli


@pytest.mark.parametrize("arguments", [[], ["proto", "--out", "generated"], ["--help-me"]])
def test_a_command_whose_extra_is_missing_says_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = EntryPoint("paint", "no_such_module_anywhere:paint", "protoplane.commands")
    monkeypatch.setattr(cli, "_entry_points", lambda: {"paint": missing})
    result = CliRunner().invoke(cli.main, ["paint", *arguments])
    assert result.exit_code == 1
    assert "paint is not available: no_such_module_anywhere is not installed" in result.output
    assert "Traceback" not in result.output


def test_help_lists_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EntryPoint("paint", "no_such_module_anywhere:paint", "protoplane.commands")
    monkeypatch.setattr(cli, "_entry_points", lambda: {"paint": missing})
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    assert "paint" in result.output


def test_a_command_that_does_not_exist() -> None:
    result = CliRunner().invoke(cli.main, ["no-such-command"])
    assert result.exit_code == 2
    assert "No such command" in result.output
