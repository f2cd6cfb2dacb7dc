"""A server opens its doors, says where they are, and shuts them in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import httpx
import pytest
from tests.component_suite import Harness, component_options, do
from tests.parts import Parts
from tests.server.plain_channel import PlainChannel

from forge.captioner.v1 import CaptionerService
from protoplane_components.captioner import Captioner
from protoplane_components.orchestrator import orchestrator
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server import NoComponentError, Options, Server, load
from protoplane_server.component import instances

pytestmark = pytest.mark.anyio


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


@contextlib.asynccontextmanager
async def calling(server: Server, parts: Parts) -> AsyncGenerator[Harness]:
    async with grpc.aio.insecure_channel(str(server.grpc_address)) as channel:
        yield Harness(PlainChannel(channel), parts, server)


async def is_shut(server: Server) -> bool:
    assert server.http_url is not None
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.TransportError):
            await http.get(f"{server.http_url}/healthz")
    return True


async def test_both_doors() -> None:
    parts = Parts()
    async with Server(parts, component_options(grpc=0, http=0)) as server:
        assert server.ready
        async with calling(server, parts) as harness, httpx.AsyncClient() as http:
            await harness.serves_on()
            ready = await http.get(f"{server.http_url}/readyz")
            assert ready.status_code == 200
    assert not server.ready


async def test_readiness_ends_when_the_drain_begins() -> None:
    parts = Parts()
    async with Server(parts, component_options(grpc=0, http=0)) as server:
        async with calling(server, parts) as harness, httpx.AsyncClient() as http:
            opened = asyncio.create_task(harness.call("unary", metadata=do("wait")))
            await parts.until(hanging=1)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0)
            ready = await http.get(f"{server.http_url}/readyz")
            assert ready.status_code == 503
            parts.release.set()
            await opened
            await stopping
        assert await is_shut(server)


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_a_taken_port(door: str, taken: int) -> None:
    server = Server(Parts(), component_options(**{door: taken}))
    with pytest.raises(OSError, match=f"127.0.0.1:{taken} is taken"):
        await server.start()


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_another_port_is_picked(
    door: str, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    options = component_options(**{door: taken}, pick_free_port=True)
    with caplog.at_level(logging.WARNING):
        async with Server(Parts(), options) as server:
            where = server.grpc_address if door == "grpc" else server.http_url
            assert where is not None
            assert not where.endswith(f":{taken}")
            assert where in caplog.text or where.removeprefix("http://") in caplog.text


async def test_what_opened_is_shut_when_a_later_door_fails(taken: int) -> None:
    options = component_options(http=0, grpc=taken)
    server = Server(Parts(), options)
    with pytest.raises(OSError, match="is taken"):
        await server.start()
    assert await is_shut(server)


async def test_http_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    async with Server(Parts(), component_options(http=f"unix:{path}")):
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport) as http:
            assert (await http.get("http://door/healthz")).status_code == 200
    assert not path.exists()


async def test_components_that_are_context_managers_are_entered_and_left() -> None:
    class Managed(Parts):
        inside = False

        async def __aenter__(self) -> Self:
            self.inside = True
            return self

        async def __aexit__(self, *_: object) -> None:
            self.inside = False

    managed = Managed()
    async with Server(managed, component_options(grpc=0)):
        assert managed.inside
    assert not managed.inside


async def test_a_log_of_ones_own_outlives_the_server() -> None:
    log = MemoryLog()
    async with Server(Parts(), component_options(grpc=0), events=log) as server:
        assert server.events is log
    await log.publish("a", "b", b"", "{}")


async def test_stopping_twice_and_in_a_hurry() -> None:
    parts = Parts()
    options = component_options(grpc=0, grace_s=60)
    async with Server(parts, options) as server, calling(server, parts) as harness:
        opened = asyncio.create_task(harness.call("unary", metadata=do("hang")))
        await parts.until(hanging=1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        async with asyncio.timeout(10):
            await server.stop(0)
            await stopping
        await asyncio.gather(opened, return_exceptions=True)


async def test_classes_are_instantiated() -> None:
    async with Server(Parts, component_options(grpc=0)) as server:
        assert isinstance(server.dispatcher.services[0], Parts)
    async with Server([Parts], component_options(grpc=0)) as server:
        assert isinstance(server.dispatcher.services[0], Parts)


def not_a_service() -> Any:
    return 3


@pytest.mark.parametrize("wrong", [not_a_service, dict])
async def test_what_is_no_component(wrong: Any) -> None:
    with pytest.raises(NoComponentError, match="is no component"):
        instances([wrong])


async def test_loading_by_name() -> None:
    assert load("tests.parts:Parts") is Parts
    # It has no __all__, and defines one.
    assert load("tests.parts") is Parts
    assert load("forge.captioner.v1:CaptionerService") is CaptionerService
    assert load("protoplane_components.captioner") is Captioner
    # What is served together a function of the module's name makes.
    assert load("protoplane_components.orchestrator") is orchestrator


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("captioner", "one looks like"),
        ("tests.component_suite", "that module has 0 of them; one looks like"),
        ("nowhere_at_all:X", "there is no module 'nowhere_at_all'"),
        ("tests.nowhere:X", "there is no module"),
        ("tests.parts:Nobody", "has no 'Nobody'"),
        ("tests.component_suite:KINDS", "is list, not a component"),
    ],
)
async def test_loading_what_is_not_there(name: str, complaint: str) -> None:
    with pytest.raises(NoComponentError, match=complaint):
        load(name)


async def test_default_addresses_are_on_the_loopback() -> None:
    assert Options().grpc == "127.0.0.1:50051"
    assert Options().http == "127.0.0.1:8080"
