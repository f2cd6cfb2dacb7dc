"""What the tests of the gateway share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.components.gateway.running import Running, gateway
from tests.components.gateway.talker import Talker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def talker() -> Talker:
    return Talker()


@pytest.fixture
async def opened(talker: Talker) -> AsyncIterator[Running]:
    """A gateway that everybody may call."""
    async with gateway(talker) as running:
        yield running
