"""What a subscriber may ask of ``/events``, and what a stream costs and tolerates."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.formats.json import JSONFormat
from tests.server.http.board import Running, running
from tests.server.http.test_events import TYPE, events, publish, take

from forge.captioner.v1 import CaptionFinished
from protoplane_runtime.engines.interface import Event, EventId, Gap
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server.http.asgi import NEAR
from protoplane_server.http.event_encoding import PIECE_SIZE, cloud_events, encoded, plain

pytestmark = pytest.mark.anyio
ID = re.compile(rb"^id: \d+-(\d+)\n", re.MULTILINE)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not ready():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def words(found: list[dict[str, str]]) -> list[int]:
    return [json.loads(event["data"]).get("words", 0) for event in found]


async def test_several_key_expressions_in_one_stream() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        params = {"also": ["a/*", "b/**"]}
        async with http.stream("GET", "/events/forge/**", params=params) as response:
            await publish(run, 1, key="a")
            await publish(run, 1, key="c", start=1)
            await publish(run, 1, key="b/b", start=2)
            await publish(run, 1, start=3)
            found = await take(response, 3)
        assert [event["key"] for event in found] == ["a/r0", "b/b/r2", "forge/captions/r3"]


async def test_only_the_latest_of_each_key() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        for number in range(9):
            event = CaptionFinished(words=number)
            await run.log.publish(
                f"k/{number % 3}", TYPE, event.to_bytes(), event.model_dump_json()
            )
        for value in ("true", "1", ""):
            params = {"after": "earliest", "latest": value}
            async with http.stream("GET", "/events/k/*", params=params) as response:
                assert words(await take(response, 3)) == [6, 7, 8]
        params = {"after": "earliest", "latest": "false"}
        async with http.stream("GET", "/events/k/*", params=params) as response:
            assert words(await take(response, 9)) == list(range(9))


@pytest.mark.parametrize("form", ["rfc3339", "offset", "seconds", "header"])
async def test_beginning_at_a_time(form: str) -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        await publish(run, 2)
        while (between_ns := time.time_ns()) == time.time_ns():
            pass
        await publish(run, 1, start=2)
        at = datetime.fromtimestamp(between_ns // 10**9, UTC)
        fraction = f".{between_ns % 10**9:09d}"
        text = {
            "seconds": f"{between_ns // 10**9}{fraction}",
            "offset": f"{at:%Y-%m-%dT%H:%M:%S}{fraction}+00:00",
        }.get(form, f"{at:%Y-%m-%dT%H:%M:%S}{fraction}Z")
        url = "/events/**" if form == "header" else f"/events/**?after={text}"
        headers = {"last-event-id": text} if form == "header" else {}
        async with http.stream("GET", url, headers=headers) as response:
            lines = response.aiter_lines()
            # What a client comes back with that loses the stream before its first event.
            assert [await anext(lines) for _ in range(3)] == ["retry: 1000", f"id: {text}", ""]
            async with asyncio.timeout(10):
                while not (line := await anext(lines)).startswith("data: "):
                    pass
            assert json.loads(line.removeprefix("data: "))["words"] == 2


@pytest.mark.parametrize("after", ["earliest", "1-0"])
async def test_every_stream_opens_with_an_id(after: str) -> None:
    async with running(log=MemoryLog(epoch=1)) as run, httpx.AsyncClient(base_url=run.url) as http:
        for params, headers in (
            ({"after": after}, {}),
            ({"lastEventId": after}, {}),
            ({}, {"last-event-id": after}),
        ):
            async with http.stream("GET", "/events/**", params=params, headers=headers) as response:
                lines = response.aiter_lines()
                assert [await anext(lines) for _ in range(2)] == ["retry: 1000", f"id: {after}"]


REFUSED = [
    ("after=2026-01-31", "RFC 3339"),
    ("after=2026-01-31T12:00:00", "RFC 3339"),
    ("after=1e400", "seconds"),
    ("after=nan", "seconds"),
    ("after=-1", "seconds"),
    ("after=1764000000000", "seconds"),
    ("envelope=soap", "cloudevents"),
    ("latest=perhaps", "latest"),
    ("also=a//b", "key expression"),
    ("&".join(["also=a"] * 64), "64"),
]


async def test_queries_that_are_refused() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        for query, says in REFUSED:
            answer = await http.get(f"/events/a?{query}")
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), query
            assert says in answer.json()["message"]


async def test_cloud_events() -> None:
    async with (
        running(log=MemoryLog(max_events=2)) as run,
        httpx.AsyncClient(base_url=run.url) as http,
    ):
        await publish(run, 3)
        params = {"envelope": "cloudevents", "after": f"{run.log.last.epoch}-0"}
        async with http.stream("GET", "/events/**", params=params) as response:
            gap, one, two = await take(response, 3)
    # No type, so that `onmessage` gets it; only a gap is told apart.
    assert (gap["event"], "event" in one) == ("gap", False)
    for fields in (gap, one, two):
        JSONFormat().read(None, fields["data"])  # Checks each attribute.
    event = JSONFormat().read(None, two["data"])
    assert event.get_id() == two["id"] == str(run.log.last)
    assert event.get_type() == TYPE
    assert event.get_subject() == "forge/captions/r2"
    assert event.get_source() == f"urn:protoplane:log:{run.log.last.epoch}"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_data() == {"requestId": "r2", "words": 2}
    at = event.get_time()
    assert at is not None
    assert abs(at.timestamp() - time.time()) < 600
    assert json.loads(gap["data"])["data"]["next"] == one["id"]


def test_a_cloud_event_of_odd_texts() -> None:
    event = Event(EventId(1, 2), 'a"b/ü', "x.Y", b"", "17", 1_700_000_000_000_000_001)
    field = cloud_events([event])[0].split("data: ")[1].strip()
    document = json.loads(field)
    assert (document["subject"], document["data"]) == ('a"b/ü', 17)
    assert document["time"] == "2023-11-14T22:13:20.000000001Z"


def test_large_batches_are_cut_where_an_event_ends() -> None:
    sizes = [10, PIECE_SIZE // 2, PIECE_SIZE // 2, 3 * PIECE_SIZE, 10, 10]
    batch = [
        Event(EventId(1, number), "k", "T", b"", "x" * size, 0) for number, size in enumerate(sizes)
    ]
    pieces = encoded(batch, plain)
    assert b"".join(pieces) == "".join(plain(batch)).encode()
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert [piece.count(b"\n\n") for piece in pieces] == [2, 1, 1, 2]
    assert encoded([Gap(EventId(1, 1), None, EventId(1, 2))], lambda _: [""]) == ()


class Scripted:
    """An ASGI server whose client takes what the test says.

    Args:
        run: The door.
        query: What is asked for.
    """

    def __init__(self, run: Running, query: bytes = b"after=earliest") -> None:
        self.run = run
        self.query = query
        self.sent: list[bytes] = []
        self.unsent = 1_000_000
        self.moves = True
        self.looks = 0
        self.aborted = asyncio.Event()

    # What the door asks of a server that is near, and of its transport.

    @property
    def transport(self) -> Any:
        return self

    def take_body(self) -> bytes | None:
        return None

    def when_lost(self, call: object) -> bool:
        return False  # It calls nobody back, so the door waits for word.

    def get_write_buffer_size(self) -> int:
        self.looks += 1
        if self.moves:
            self.unsent -= 1
        return self.unsent

    def abort(self) -> None:
        self.aborted.set()

    async def serve(self, *, hidden: bool = False) -> None:
        async def receive() -> Any:
            await self.aborted.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message.get("body"):
                self.sent.append(message["body"])
                if len(self.sent) > 1:
                    await asyncio.Event().wait()  # Never taken as a whole.

        path = "/events/**"
        scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(),
            "query_string": self.query, "headers": [], "client": ("a-client", 1),
        }  # fmt: skip
        if not hidden:
            scope[NEAR] = self
        async with asyncio.timeout(30):
            await self.run.door.app(scope, receive, send)


async def test_a_slow_client_is_kept_and_a_stalled_one_is_cut_off() -> None:
    async with running(stall_s=0.1) as run:
        await publish(run, 10)
        server = Scripted(run)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.looks > 20)  # A byte between any two: that is slow, no more.
        assert not server.aborted.is_set()
        assert not serving.done()
        server.moves = False
        await serving
        assert server.aborted.is_set()
        assert run.log.readers == 0


async def test_where_the_server_hides_its_sockets_a_send_has_its_time() -> None:
    async with running(stall_s=0.1) as run:
        await publish(run, 10)
        server = Scripted(run)
        await server.serve(hidden=True)  # It ends by itself.
        assert [sent.count(b"data: ") for sent in server.sent] == [0, 10, 0]
        assert server.sent[2] == b"retry: 1000\n\n"  # In case that it ever goes on.


@pytest.mark.parametrize("body", [b"", b"xyz"])
async def test_a_client_that_goes_holds_nothing(body: bytes) -> None:
    async with running() as run:
        head = b"GET /events/** HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        _, hasty = await run.connect()
        hasty.write(head + body)
        hasty.transport.abort()  # Perhaps before the door has seen the request.
        reader, writer = await run.connect()
        writer.write(head + body)
        await reader.readuntil(b"id: ")
        await until(lambda: run.log.readers == 1)
        writer.transport.abort()
        await until(lambda: run.log.readers == 0)


async def test_a_socket_that_takes_nothing_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "protoplane.http")
    async with running(stall_s=0.3, log=MemoryLog(max_events=100)) as run:
        reader, writer = await run.connect(window_bytes=4096)
        writer.write(b"GET /events/** HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"id: ")
        large = "x" * 1_000_000
        for _ in range(50):
            await run.log.publish("a", TYPE, b"", f'"{large}"')
        await until(lambda: "cut off" in caplog.text)
        assert run.log.readers == 0
        # Nothing tells the client that the stream was whole.
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_long_replay_takes_little_memory_and_has_each_event_once(tmp_path: Path) -> None:
    """From the disk, while more is published: neither gap nor duplicate where the two meet."""
    old, new = 100_000, 4_000
    log = await LocalLog.open(tmp_path, ring_bytes=1 << 20)

    async def fill(count: int, together: int) -> None:
        for _ in range(0, count, together):
            await asyncio.gather(
                *(log.publish("forge/x", TYPE, b"0123456789" * 10, "{}", durable=True)
                  for _ in range(together))
            )  # fmt: skip

    await fill(old, 4000)
    async with running(log=log) as run:
        reader, writer = await run.connect(window_bytes=1 << 18)
        writer.write(b"GET /events/forge/**?after=earliest HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"id: earliest\n\n")
        ahead = asyncio.create_task(fill(new, 500))
        expected, rest = 1, b""
        tracemalloc.start(1)
        try:
            async with asyncio.timeout(120):
                while expected <= old + new:
                    chunk, found, rest = (rest + await reader.read(1 << 18)).rpartition(b"\n")
                    ids = [int(each) for each in ID.findall(chunk + found)]
                    assert ids == [*range(expected, expected + len(ids))]
                    expected += len(ids)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await ahead
        writer.close()
    assert peak < 16_000_000


async def test_a_stream_ends_whole_when_the_door_closes() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        await publish(run, 2)
        async with http.stream("GET", "/events/**?after=earliest") as response:
            seen = events(response)
            assert [json.loads((await anext(seen))["data"]).get("words", 0) for _ in "ab"] == [0, 1]
            run.door.stop()
            # A cut would be an httpx.RemoteProtocolError.
            async with asyncio.timeout(20):
                assert [event async for event in seen] == []


@pytest.mark.parametrize("engine", ["memory", "local"])
async def test_a_slow_reader_reads_from_the_disk_and_past_what_is_kept_gets_a_gap(
    engine: str, tmp_path: Path
) -> None:
    count, text = 400, f'"{"x" * 100_000}"'
    log: Any = MemoryLog(epoch=1, max_events=50)
    if engine == "local":
        log = await LocalLog.open(tmp_path, ring_bytes=1 << 20)
    async with running(log=log) as run:
        # The socket holds some MB; what does not fit into it waits in the log, and nowhere else.
        reader, writer = await run.connect(window_bytes=4096)
        writer.write(b"GET /events/** HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\n\n")
        for _ in range(count):
            await log.publish("a", "T", b"", text, durable=True)
            await asyncio.sleep(0)
        last = log.last.sequence
        seen: list[int] = []
        rest, gaps = b"", 0
        async with asyncio.timeout(60):
            while not seen or seen[-1] < last:
                *blocks, rest = (rest + await reader.read(1 << 18)).split(b"\n\n")
                for block in blocks:
                    lines = (line.partition(b": ") for line in block.split(b"\n"))
                    fields = {name: value for name, _, value in lines}
                    sequence = int(fields[b"id"].rpartition(b"-")[2])
                    before = seen[-1] if seen else 0
                    if fields[b"event"] == b"gap":
                        # It stands for what is missing, and for nothing else.
                        gaps += 1
                        assert json.loads(fields[b"data"])["asked"] == f"1-{before}"
                        assert sequence > before
                    else:
                        assert sequence == before + 1
                    seen.append(sequence)
        writer.close()
    assert (gaps > 0) is (engine == "memory")
    assert len(seen) - gaps == count if engine == "local" else len(seen) - gaps < count
