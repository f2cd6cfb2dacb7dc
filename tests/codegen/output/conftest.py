"""Generated packages, made once for each session and forgotten after it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.codegen.project import generated


@pytest.fixture(scope="session")
def parley_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with the code of the package ``parley.v1``."""
    with generated("parley", tmp_path_factory.mktemp("parley")) as out:
        yield out


@pytest.fixture(scope="session")
def parley(parley_out: Path) -> ModuleType:
    """The package ``parley.v1``: services of every kind, and hostile comments."""
    return importlib.import_module("parley.v1")
