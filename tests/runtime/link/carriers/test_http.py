"""Links over HTTP, through the HTTP door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
from tests.runtime.link.carriers.carrier_suite import Recorder, TlsCarrierSuite, first
from tests.runtime.link.carriers.test_tcp import free_port

from forge.captioner.v1 import CaptionerService
from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.link.carriers.http import Event, read_events
from protoplane_runtime.link.carriers.interface import Listener, Started
from protoplane_runtime.link.carriers.opening import connector, listener
from protoplane_runtime.tls import ClientTls, ServerTls
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.http import HttpDoor
from protoplane_server.http.door import bound_socket
from protoplane_server.limits import Limits


@dataclass
class _Door:
    address: str
    door: HttpDoor
    task: asyncio.Task[None]

    async def aclose(self) -> None:
        self.door.stop()
        await self.task


async def open_door(
    started: Started | None, tls: ServerTls | None = None, max_message_bytes: int = 10_000_000
) -> _Door:
    dispatcher = Dispatcher(
        [CaptionerService()], events=MemoryLog(), limits=Limits(max_message_bytes=max_message_bytes)
    )
    door = HttpDoor(
        dispatcher,
        health=lambda: True,
        tls=tls.ssl_context() if tls is not None else None,
        grace_s=0.2,
        keep_alive_s=0.05,
        link=started,
    )
    sock = bound_socket("127.0.0.1", 0)
    sock.listen()
    port: int = sock.getsockname()[1]
    task = asyncio.create_task(door.run([sock]))
    return _Door(f"link+http{'' if tls is None else 's'}://127.0.0.1:{port}", door, task)


class TestHttp(TlsCarrierSuite):
    async def listen(self, started: Started, tls: ServerTls | None = None) -> Listener:
        return await open_door(started, tls)

    async def connect(self, address: str, started: Started, tls: ClientTls | None = None) -> None:
        await connector(address)(address, started, tls)

    def nowhere(self) -> str:
        return f"link+http://127.0.0.1:{free_port()}"

    async def test_a_server_that_takes_small_messages_only(self) -> None:
        taken: list[Recorder] = []
        near: list[Recorder] = []
        there = await open_door(_into(taken), max_message_bytes=1000)
        await self.connect(there.address, _into(near))
        near[0].carrier.send(b"x" * 100_000)
        await (await first(taken)).takes(b"x" * 100_000)
        near[0].carrier.close()
        assert await near[0].until_lost() is None
        assert await taken[0].until_lost() is None
        await there.aclose()

    async def test_a_door_that_stops_ends_its_links(self) -> None:
        taken: list[Recorder] = []
        near: list[Recorder] = []
        there = await open_door(_into(taken))
        await self.connect(there.address, _into(near))
        near[0].carrier.send(b"hello")
        await (await first(taken)).takes(b"hello")
        await there.aclose()
        await taken[0].until_lost()
        assert await near[0].until_lost() is not None

    async def test_a_door_without_links_says_so(self) -> None:
        there = await open_door(None)
        with pytest.raises(PlaneError, match="answered a link with 404") as caught:
            await self.connect(there.address, Recorder)
        assert caught.value.code is Code.UNAVAILABLE
        await there.aclose()

    async def test_there_is_no_listener_but_the_door(self) -> None:
        with pytest.raises(PlaneError, match="open the door"):
            listener("link+http://127.0.0.1:0")

    @pytest.mark.parametrize(
        "address", ["link+http://", "link+http:///x", "link+http://h:99999", "link+http://h/?a=b"]
    )
    async def test_no_address(self, address: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await self.connect(address, Recorder)
        assert caught.value.code is Code.INVALID_ARGUMENT


class TestHostile:
    """Requests that no client of ours makes."""

    pytestmark = pytest.mark.anyio

    async def test_links_that_are_not_there(self) -> None:
        async with _raw() as (client, _, _):
            for id_ in ("nobody", "x" * 43, "%2e%2e", "a/b"):
                assert (await client.post(f"/link/{id_}?n=0", content=b"x")).status_code == 404
                assert (await client.delete(f"/link/{id_}")).status_code == 404

    async def test_other_methods(self) -> None:
        async with _raw() as (client, link, _):
            assert (await client.get("/link")).status_code == 405
            assert (await client.delete("/link")).status_code == 405
            assert (await client.get(link)).status_code == 405

    async def test_numbers_that_are_not_due(self) -> None:
        async with _raw() as (client, link, far):
            for number in ("", "?n=", "?n=1", "?n=-1", "?n=x", "?n=" + "9" * 40):
                assert (await client.post(link + number, content=b"no")).status_code == 409
            assert (await client.post(link + "?n=0", content=b"one")).status_code == 204
            assert (await client.post(link + "?n=1", content=b"two")).status_code == 204
            assert (await client.post(link + "?n=0", content=b"no")).status_code == 409
            # The answer to the last one may have been lost, so that one may come again.
            assert (await client.post(link + "?n=1", content=b"two")).status_code == 204
            assert far.data == b"onetwo"

    async def test_two_bodies_at_once(self) -> None:
        async with _raw() as (client, link, far):
            far.carrier.pause_receiving()
            await client.post(link + "?n=0", content=b"one")
            second = asyncio.ensure_future(client.post(link + "?n=1", content=b"two"))
            # Whichever comes first, one of the two is out of turn.
            assert (await client.post(link + "?n=2", content=b"x")).status_code == 409
            far.carrier.resume_receiving()
            assert (await second).status_code == 204
            await far.takes(b"onetwo")

    async def test_a_body_over_the_limit(self) -> None:
        async with _raw(max_message_bytes=1000) as (client, link, far):
            answer = await client.post(link + "?n=0", content=b"x" * 1001)
            assert answer.status_code == 413
            assert (await client.post(link + "?n=0", content=b"x" * 1000)).status_code == 204
            assert len(far.data) == 1000

    async def test_a_closed_link_is_forgotten(self) -> None:
        async with _raw() as (client, link, far):
            assert (await client.delete(link)).status_code == 204
            assert await far.until_lost() is None
            assert (await client.delete(link)).status_code == 404
            assert (await client.post(link + "?n=0", content=b"x")).status_code == 404

    async def test_a_link_whose_stream_broke_is_forgotten(self) -> None:
        taken: list[Recorder] = []
        there = await open_door(_into(taken))
        url = there.address.removeprefix("link+")
        async with httpx.AsyncClient(base_url=url) as client:
            async with client.stream("POST", "/link") as response:
                events = read_events(response.aiter_bytes())
                event = await anext(events)
                link = f"/link/{json.loads(event.data)['id']}"
            assert await taken[0].until_lost() is not None
            assert (await client.post(link + "?n=0", content=b"x")).status_code == 404
        await there.aclose()


@pytest.mark.anyio
async def test_events_in_any_pieces() -> None:
    body = b': hi\r\n\r\nevent: link\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
    body += b":\n:\ndata:QQ==\n\nevent: close\n\n"
    expected = [Event("link", b'{"a":1}'), Event("", b"QQ=="), Event("close", b"")]
    for size in range(1, len(body)):

        async def chunks(size: int = size) -> AsyncIterator[bytes]:
            for start in range(0, len(body), size):
                yield body[start : start + size]

        assert [event async for event in read_events(chunks())] == expected


@asynccontextmanager
async def _raw(
    max_message_bytes: int = 10_000_000,
) -> AsyncGenerator[tuple[httpx.AsyncClient, str, Recorder], None]:
    """An open link by hand: a client, the link's path, and the server's end."""
    taken: list[Recorder] = []
    there = await open_door(_into(taken), max_message_bytes=max_message_bytes)
    url = there.address.removeprefix("link+")
    async with httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/link") as response:
            events = read_events(response.aiter_bytes())
            event = await anext(events)
            yield client, f"/link/{json.loads(event.data)['id']}", taken[0]
        await taken[0].until_lost()
    await there.aclose()


def _into(made: list[Recorder]) -> Started:
    """What starts carriers and keeps their recorders."""

    def started(carrier: object) -> Recorder:
        made.append(Recorder(carrier))  # type: ignore[arg-type]
        return made[-1]

    return started
