"""Events over HTTP to many subscribers: ``/events`` against a plain sse-starlette app.

Both publish events of 190 bytes in bursts, to 1, 100 and 1,000 subscribers that one epoll loop
reads; sse-starlette's app has a queue for each client. The events are encoded before the clock
starts, on both sides: what is measured is how they reach the subscribers. Each server is a process
of its own, fresh for each round, and the two take turns.

Then subscribers are connected to whom nothing is sent, and the growth of the server is counted.

A part of ``bench/events.py``, which joins what `event_deliveries` and `idle_subscribers` return.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Generator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

from events_sample import EVENT_BYTES, KEY, TYPE, event
from http_process import serve_named, serve_uvicorn, server
from report import Claim, Row

PACKAGES = ("uvicorn", "starlette", "sse-starlette", "pydantic", "uvloop", "httptools")
BURST = 100
"""Events that are published before the event loop gets its turn."""

_MOST = 50_000
_IDLE = 5_000
_IDLE_PEER = 1_000
_REQUEST = b"GET /events/forge/** HTTP/1.1\r\nhost: bench\r\n\r\n"
_PROGRAM = Path(__file__)
# Enough events to last a good part of a second; ours are fewer than the log keeps, so none is lost.
_COUNTS = {
    "ours": {1: _MOST, 100: 15_000, 1000: 2_000},
    "sse-starlette": {1: 20_000, 100: 1_000, 1000: 100},
}
_REQUIRED = {1: 10, 100: 30, 1000: 20}


# Servers.


async def serve_ours(sock: socket.socket, events: int) -> None:
    """The event plane of the HTTP door, with so many events ready to be published."""
    from forge.captioner.v1 import CaptionerService
    from protoplane_runtime.engines.memory import MemoryLog
    from protoplane_server.dispatcher import Dispatcher
    from protoplane_server.http import HttpDoor
    from protoplane_server.serving import spare_collector

    log = MemoryLog()
    door = HttpDoor(Dispatcher([CaptionerService()], events=log), health=lambda: True)
    made = [(each.to_bytes(), each.model_dump_json()) for each in map(event, range(events))]

    async def publish(count: int) -> None:
        for number in range(count):
            data, text = made[number]
            await log.publish(KEY, TYPE, data, text)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)

    follow_orders(publish)
    spare_collector()
    await door.run([sock])


async def serve_sse_starlette(sock: socket.socket, events: int) -> None:
    """What one writes with sse-starlette: a queue for each client, an event for each send."""
    from sse_starlette import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    queues: set[asyncio.Queue[dict[str, str]]] = set()
    made = [event(number).model_dump_json() for number in range(events)]

    async def subscribe(request: Request) -> EventSourceResponse:
        async def stream() -> AsyncIterator[dict[str, str]]:
            queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
            queues.add(queue)
            try:
                yield {"comment": "hello"}
                while True:
                    yield await queue.get()
            finally:
                queues.discard(queue)

        return EventSourceResponse(stream())

    async def publish(count: int) -> None:
        for number in range(count):
            item = {"id": f"1-{number}", "event": TYPE, "data": made[number]}
            for queue in queues:
                queue.put_nowait(item)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)

    follow_orders(publish)
    await serve_uvicorn(Starlette(routes=[Route("/events/{key:path}", subscribe)]), sock)


SERVERS = {
    "ours": partial(serve_ours, events=_MOST),
    "ours, idle": partial(serve_ours, events=0),
    "sse-starlette": partial(serve_sse_starlette, events=_MOST),
    "sse-starlette, idle": partial(serve_sse_starlette, events=0),
}


def follow_orders(publish: Any) -> None:
    """Publish as many events as each line of the standard input says."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def begin(count: int) -> None:
        task = loop.create_task(publish(count))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(begin, int(line))

    threading.Thread(target=read, daemon=True).start()


# The clients.


@contextlib.contextmanager
def _subscribers(port: int, count: int) -> Generator[dict[int, socket.socket]]:
    """So many sockets, each of which has the first bytes of its stream."""
    with contextlib.ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            sock.sendall(_REQUEST)
            sockets[sock.fileno()] = sock
        for sock in sockets.values():
            hello = b""
            while not hello.partition(b"\r\n\r\n")[2]:
                hello += sock.recv(65536)  # The head, then the first words of the body.
            assert hello.startswith(b"HTTP/1.1 200"), hello
        yield sockets


def deliveries_per_second(
    port: int, process: subprocess.Popen[bytes], subscribers: int, events: int
) -> float:
    """Events received each second by all subscribers together, until each has every one."""
    assert process.stdin is not None
    with _subscribers(port, subscribers) as sockets, select.epoll() as poll:
        for sock in sockets.values():
            poll.register(sock, select.EPOLLIN)
        left = dict.fromkeys(sockets, events)
        tails = dict.fromkeys(sockets, b"")
        waiting = subscribers
        buffer = bytearray(1 << 20)
        view = memoryview(buffer)
        started = perf_counter()
        process.stdin.write(b"%d\n" % events)
        process.stdin.flush()
        while waiting:
            ready = poll.poll(30)
            assert ready, f"{waiting} subscribers still wait for events"
            for fd, _ in ready:
                size = sockets[fd].recv_into(view)
                assert size, "the server closed a stream"
                # A mark may be cut in two by the end of a read.
                chunk = tails[fd] + view[:size]
                left[fd] -= chunk.count(b"data: {")
                tails[fd] = bytes(chunk[-6:])
                if left[fd] == 0:
                    waiting -= 1
        return subscribers * events / (perf_counter() - started)


def _resident(process: subprocess.Popen[bytes]) -> int:
    """Resident bytes of a process, as Linux counts them."""
    sleep(0.5)
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# What is measured.


def event_deliveries(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """``/events`` against sse-starlette, to 1, 100 and 1,000 subscribers."""
    _allow_files(4096)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(7 if full else 2):
        for subscribers in _REQUIRED:
            for name, counts in _COUNTS.items():
                with server(_PROGRAM, name) as (port, process):
                    rate = deliveries_per_second(port, process, subscribers, counts[subscribers])
                    rates[name, subscribers].append(rate)
    rows = [
        Row(
            "/events" if name == "ours" else name,
            f"{EVENT_BYTES}-byte events to {subscribers:,}",
            median(measured),
            "deliveries/s",
        )
        for (name, subscribers), measured in rates.items()
    ]
    claims: list[Claim] = []
    for subscribers, required in _REQUIRED.items():
        pairs = zip(rates["ours", subscribers], rates["sse-starlette", subscribers], strict=True)
        ratio = median(ours / theirs for ours, theirs in pairs)
        said = f"/events: deliveries to {subscribers:,}, times sse-starlette"
        claims.append(Claim(said, required, ratio))
    return rows, claims


def idle_subscribers() -> tuple[list[Row], list[Claim]]:
    """What a server grows by for each subscriber that is connected and silent."""
    _allow_files(_IDLE + 200)
    costs: dict[str, float] = {}
    resident = 0
    for name, count in (("ours", _IDLE), ("sse-starlette", _IDLE_PEER)):
        with server(_PROGRAM, f"{name}, idle") as (port, process), _subscribers(port, 8):
            before = _resident(process)
            with _subscribers(port, count):
                after = _resident(process)
        costs[name] = (after - before) / count
        if name == "ours":
            resident = after
    rows = [
        Row("/events", "resident, idle subscriber", costs["ours"], "bytes"),
        Row("sse-starlette", "resident, idle subscriber", costs["sse-starlette"], "bytes"),
        Row("/events", f"resident, {_IDLE:,} idle subscribers", resident / 1e6, "MB"),
    ]
    return rows, [
        Claim("/events: bytes an idle connection", 15_000, costs["ours"], at_most=True),
        Claim(f"/events: {_IDLE:,} idle subscribers, MB", 100, resident / 1e6, at_most=True),
    ]


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))


if __name__ == "__main__" and sys.argv[1:2] == ["--serve"]:
    serve_named(SERVERS, *sys.argv[2:4])
