"""What the tests of the registry share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.components.registry.postgres import Postgres, postgres_or_skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_or_skip() as server:
        yield server
