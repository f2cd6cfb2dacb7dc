"""A component that offers the planes, reached through each of its doors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.parts import Parts

from protoplane_client import Plane, connect
from protoplane_server import Options, Server

NAME = "forge/captioner/one"


@dataclass(frozen=True, slots=True)
class Offered:
    """A component with planes, and a way to it.

    Attributes:
        plane: The way.
        server: The component.
    """

    plane: Plane
    server: Server


def options(*doors: str, **changes: Any) -> Options:
    """Options of a server with planes on an engine of its own, with some doors open."""
    fields: dict[str, Any] = {
        "grpc": "127.0.0.1:0" if "grpc" in doors else None,
        "http": "127.0.0.1:0" if "http" in doors else None,
        "link": ("link+tcp://127.0.0.1:0",) if "link" in doors else (),
        "grace_s": 5,
        "engine": "memory:",
        "name": NAME,
        "planes": True,
        **changes,
    }
    return Options(**fields)


def address(server: Server, door: str) -> str:
    """Where a door of a server is."""
    if door == "grpc":
        return f"grpc://{server.grpc_address}"
    return str(server.http_url) if door == "http" else server.link_addresses[0]


@pytest.fixture(params=["grpc", "link", "http"])
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def offered(door: str) -> AsyncIterator[Offered]:
    """A component with planes, reached through one of its doors."""
    async with (
        Server(Parts(), options(door)) as server,
        connect(address(server, door)) as plane,
    ):
        yield Offered(plane, server)
