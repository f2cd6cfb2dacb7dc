"""A gateway in front of a component, both in this process, over real doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tests.component_suite import component_options

from protoplane_base import Service
from protoplane_components.gateway import Gateway, GatewaySettings
from protoplane_server import Server

ALICE = "sk-alice-0123456789"
BOB = "sk-bob-0123456789abc"


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not await so():  # noqa: ASYNC110  # it is another process or thread that tells
            await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that runs."""

    server: Server
    url: str

    def http(self, key: str = "", **headers: str) -> httpx.AsyncClient:
        """A client of its HTTP door."""
        if key:
            headers["authorization"] = f"Bearer {key}"
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30)


@asynccontextmanager
async def gateway(upstream: Service | str, **settings: Any) -> AsyncGenerator[Running]:
    """A gateway with settings; ``options`` are those of its server."""
    options = {"http": "127.0.0.1:0", **settings.pop("options", {})}
    if isinstance(upstream, str):
        made = Gateway(GatewaySettings(upstream=upstream, **settings))
        async with Server(made, component_options(**options)) as server:
            assert server.http_url is not None
            yield Running(server, server.http_url)
        return
    behind = component_options(link=("link+tcp://127.0.0.1:0",))
    async with (
        Server(upstream, behind) as worker,
        gateway(worker.link_addresses[0], options=options, **settings) as running,
    ):
        yield running
