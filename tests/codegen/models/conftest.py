"""Generated packages, made once for each session and forgotten after it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.codegen.project import generated


@pytest.fixture(scope="session")
def odd_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with the code of the odd schemas."""
    with generated("odd", tmp_path_factory.mktemp("odd")) as out:
        yield out


@pytest.fixture(scope="session")
def odd(odd_out: Path) -> ModuleType:
    """The package ``odd.import.v1``."""
    return importlib.import_module("odd.import_.v1")


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package ``kinds.v1``: fields of every kind."""
    with generated("kinds", tmp_path_factory.mktemp("kinds")):
        yield importlib.import_module("kinds.v1")


@pytest.fixture(scope="session")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package ``rules.v1``: fields and messages with rules."""
    with generated("rules", tmp_path_factory.mktemp("rules")):
        yield importlib.import_module("rules.v1")
