"""What a component is given of the server that it is in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

import httpx
import pytest
from prometheus_client import Gauge
from tests.component_suite import component_options

from forge.captioner.v1 import CaptionerService, CaptionFinished
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Host, Hosted, Server

pytestmark = pytest.mark.anyio


class Guest(CaptionerService):
    """Uses its host before any call comes."""

    host: Host

    def hosted(self, host: Host) -> None:
        self.host = host
        Gauge("guests", "How many there are.", registry=host.metrics).set(7)

    async def __aenter__(self) -> Self:
        if self.host.state is not None:
            await self.host.state.put("forge/guest", b"here")
        await self.host.publish(CaptionFinished(request_id="start", words=3))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.host.state is not None:
            await self.host.state.put("forge/guest", b"gone")
        await self.host.publish(CaptionFinished(request_id="end", words=3))


def test_a_component_is_hosted_by_what_it_defines() -> None:
    assert isinstance(Guest(), Hosted)
    assert not isinstance(CaptionerService(), Hosted)


async def test_planes_and_metrics_outside_of_calls() -> None:
    guest = Guest()
    options = component_options(http="127.0.0.1:0", engine="memory:", name="forge/guest/one")
    async with Server(guest, options) as server:
        assert guest.host.name == "forge/guest/one"
        assert guest.host.state is not None
        entry = await guest.host.state.get("forge/guest")
        assert entry is not None
        assert entry.value == b"here"
        [event] = await anext(server.events.read(["forge/captions/*"], after=Start.EARLIEST))
        assert getattr(event, "key", "") == "forge/captions/start"
        async with httpx.AsyncClient(timeout=20) as http:
            assert "guests 7.0" in (await http.get(f"{server.http_url}/metrics")).text


async def test_the_planes_are_there_until_the_component_is_left(tmp_path: Path) -> None:
    url = f"local:{tmp_path}"
    async with Server(Guest(), component_options(http="127.0.0.1:0", engine=url)):
        pass
    engine = await open_engine(url)
    try:
        entry = await engine.state.get("forge/guest")
        assert entry is not None
        assert entry.value == b"gone"
        read = engine.events.read(["forge/captions/end"], after=Start.EARLIEST)
        async with asyncio.timeout(30):
            assert len(await anext(read)) == 1
    finally:
        await engine.close()


async def test_the_object_store_is_the_one_of_the_planes() -> None:
    guest = Guest()
    async with Server(guest, component_options(engine="memory:", planes=True)):
        await (await guest.host.open_objects()).put("forge/a", b"1")
        async with (await guest.host.open_objects()).get("forge/a") as body:
            assert await body.read() == b"1"


async def test_the_object_store_is_the_one_of_the_options(tmp_path: Path) -> None:
    guest = Guest()
    async with Server(guest, component_options(objects=tmp_path.as_uri())):
        await (await guest.host.open_objects()).put("forge/a", b"1")
    store = await open_object_store(tmp_path.as_uri())
    assert (await store.head("forge/a")).size == 1


async def test_it_finds_others_and_says_what_it_is(tmp_path: Path) -> None:
    class Telling(Guest):
        def hosted(self, host: Host) -> None:
            super().hosted(host)
            host.metadata["colour"] = "blue"

    guest = Telling()
    name = "forge/guest/one"
    options = component_options(engine=f"local:{tmp_path}", name=name, namespace="apart")
    async with Server(guest, options):
        assert guest.host.discovery is not None
        assert guest.host.namespace == "apart"
        [found] = await guest.host.discovery.instances(name, namespace="apart")
        assert found.metadata == {"colour": "blue"}


async def test_without_an_engine_there_is_nobody_to_find() -> None:
    guest = Guest()
    async with Server(guest, component_options()):
        assert guest.host.discovery is None


async def test_an_event_that_has_no_key_is_refused() -> None:
    guest = Guest()
    async with Server(guest, component_options()):
        with pytest.raises(PlaneError) as caught:
            await guest.host.publish(guest.spec.events[0]())
        assert caught.value.code is Code.INVALID_ARGUMENT
