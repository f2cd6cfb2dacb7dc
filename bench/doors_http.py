"""The HTTP door against its peers: JSON calls, and events to many subscribers.

* A JSON call, against a bare Starlette route under uvicorn that validates with the same models.
  Both answer the same bytes, and the client is the same: sockets that send the next request when
  the answer to the last one is whole.
* Events to 1, 100 and 1,000 subscribers of ``/events``, against a plain sse-starlette app that has
  a queue for each client. Both publish in bursts and are read by the same epoll loop.

Each server is a process of its own. Run alone, or as a part of ``bench/doors.py``, which joins
what `json_calls` and `event_deliveries` return.

    python bench/doors_http.py [--json] [--full]
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Generator
from time import perf_counter
from typing import Any, ClassVar

from report import Claim, Row, print_report

PACKAGES = ("uvicorn", "starlette", "sse-starlette", "pydantic", "uvloop", "httptools")
BURST = 100
"""Events that are published before the event loop gets its turn."""

_BODY = b'{"prompt":"a lighthouse in the fog, seen from the sea","maxWords":40,"seed":"7"}'
_CLIENTS = 16
_TYPE = "forge.captioner.v1.CaptionFinished"


# Servers.


async def serve_ours(sock: socket.socket) -> None:
    """The HTTP door with one unary rpc, and its event plane."""
    from forge.captioner.v1 import CaptionChunk, CaptionFinished, CaptionRequest
    from protoplane_base import MethodKind, MethodSpec, Service, ServiceSpec
    from protoplane_runtime.engines.memory import MemoryLog
    from protoplane_server.dispatcher import Dispatcher
    from protoplane_server.http import HttpDoor

    method = MethodSpec(
        service="bench.v1.Bench",
        name="Say",
        python_name="say",
        kind=MethodKind.UNARY,
        request=CaptionRequest,
        response=CaptionChunk,
    )

    class Bench(Service):
        spec: ClassVar[ServiceSpec] = ServiceSpec("bench.v1.Bench", "", "", {"Say": method})

        async def say(self, request: CaptionRequest, ctx: object) -> CaptionChunk:
            return CaptionChunk(text=request.prompt, index=request.max_words or 0)

    log = MemoryLog()
    door = HttpDoor(Dispatcher([Bench()], events=log), health=lambda: True)

    async def publish(count: int) -> None:
        for number in range(count):
            event = CaptionFinished(request_id="42", words=number)
            data, text = event.to_bytes(), event.model_dump_json()
            await log.publish("forge/captions/42", _TYPE, data, text)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)

    follow_orders(publish)
    await door.run([sock])


async def serve_starlette(sock: socket.socket) -> None:
    """A bare route that parses, validates and answers with the same models."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from forge.captioner.v1 import CaptionChunk, CaptionRequest

    async def say(request: Request) -> Response:
        asked = CaptionRequest.model_validate_json(await request.body())
        answer = CaptionChunk(text=asked.prompt, index=asked.max_words or 0)
        return Response(answer.model_dump_json(), media_type="application/json")

    await _uvicorn(Starlette(routes=[Route("/bench.v1.Bench/Say", say, methods=["POST"])]), sock)


async def serve_sse_starlette(sock: socket.socket) -> None:
    """What one writes with sse-starlette: a queue for each client, an event for each send."""
    from sse_starlette import EventSourceResponse
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    from forge.captioner.v1 import CaptionFinished

    queues: set[asyncio.Queue[dict[str, str]]] = set()

    async def subscribe(request: Request) -> EventSourceResponse:
        async def events() -> AsyncIterator[dict[str, str]]:
            queue: asyncio.Queue[dict[str, str]] = asyncio.Queue()
            queues.add(queue)
            try:
                yield {"comment": "hello"}
                while True:
                    yield await queue.get()
            finally:
                queues.discard(queue)

        return EventSourceResponse(events())

    async def publish(count: int) -> None:
        for number in range(count):
            event = CaptionFinished(request_id="42", words=number)
            item = {"id": f"1-{number}", "event": _TYPE, "data": event.model_dump_json()}
            for queue in queues:
                queue.put_nowait(item)
            if number % BURST == BURST - 1:
                await asyncio.sleep(0)

    follow_orders(publish)
    await _uvicorn(Starlette(routes=[Route("/events/{key:path}", subscribe)]), sock)


async def _uvicorn(app: Any, sock: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, timeout_keep_alive=75,
    )  # fmt: skip
    await uvicorn.Server(config).serve([sock])


SERVERS = {
    "ours": serve_ours,
    "starlette": serve_starlette,
    "sse-starlette": serve_sse_starlette,
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


@contextlib.contextmanager
def server(name: str) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """A server in its own process: its port, and the process to give orders to."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as sock:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, str(sock.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[sock.fileno()],
        )
        try:
            yield sock.getsockname()[1], process
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


# The clients.


def calls_per_second(port: int, seconds: float) -> float:
    """Unary calls answered each second, over some connections that each wait for their answer."""
    request = (
        b"POST /bench.v1.Bench/Say HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(_BODY)
    ) + _BODY
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        clients: dict[int, tuple[socket.socket, int]] = {}
        for _ in range(_CLIENTS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(request)
            size = _whole_answer(sock)
            clients[sock.fileno()] = (sock, size)
            poll.register(sock, select.EPOLLIN)
        missing = dict.fromkeys(clients, 0)
        for fd, (sock, size) in clients.items():
            missing[fd] = size
            sock.sendall(request)
        answered = 0
        started = perf_counter()
        while (now := perf_counter()) - started < seconds:
            for fd, _ in poll.poll(1):
                sock, size = clients[fd]
                missing[fd] -= len(sock.recv(65536))
                if missing[fd] == 0:
                    answered += 1
                    missing[fd] = size
                    sock.sendall(request)
        return answered / (now - started)


def _whole_answer(sock: socket.socket) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), data
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    assert b"lighthouse" in body
    return len(head) + 4 + length


def deliveries_per_second(
    port: int, process: subprocess.Popen[bytes], subscribers: int, events: int
) -> float:
    """Events received each second by all subscribers together, until each has every one."""
    assert process.stdin is not None
    with contextlib.ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        sockets: dict[int, socket.socket] = {}
        for _ in range(subscribers):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            sock.sendall(b"GET /events/forge/** HTTP/1.1\r\nhost: bench\r\n\r\n")
            sockets[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        for sock in sockets.values():
            hello = b""
            while not hello.partition(b"\r\n\r\n")[2]:
                hello += sock.recv(65536)  # The head, then the first words of the body.
            assert hello.startswith(b"HTTP/1.1 200"), hello
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


# What is measured.


def json_calls(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """The JSON door against the bare route; the best of rounds that take turns."""
    best = {"ours": 0.0, "starlette": 0.0}
    with server("ours") as (ours, _), server("starlette") as (bare, _):
        # Short rounds in turn: what else the machine does then meets both, or neither.
        for _ in range(60 if full else 15):
            for name, port in (("ours", ours), ("starlette", bare)):
                best[name] = max(best[name], calls_per_second(port, 0.4))
    rows = [
        Row("JSON door", "unary calls", best["ours"], "calls/s"),
        Row("bare Starlette route", "unary calls", best["starlette"], "calls/s"),
    ]
    ratio = best["ours"] / best["starlette"]
    claim = "JSON door: calls per second of a bare Starlette route with the same models"
    return rows, [Claim(claim, 0.8, ratio)]


def event_deliveries(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """``/events`` against sse-starlette, to 1, 100 and 1,000 subscribers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    # Enough events to last about a second; ours are fewer than the log keeps, so none is lost.
    counts = {"ours": {1: 50_000, 100: 50_000, 1000: 5_000}}
    counts["sse-starlette"] = {1: 20_000, 100: 1_000, 1000: 100}
    rows: list[Row] = []
    rates: dict[tuple[str, int], float] = {}
    for name, title in (("ours", "/events"), ("sse-starlette", "sse-starlette")):
        for subscribers in (1, 100, 1000):
            best = 0.0
            for _ in range(3 if full else 2):
                with server(name) as (port, process):
                    count = counts[name][subscribers]
                    best = max(best, deliveries_per_second(port, process, subscribers, count))
            rates[name, subscribers] = best
            rows.append(Row(title, f"events to {subscribers:,} subscribers", best, "deliveries/s"))
    ratio = rates["ours", 100] / rates["sse-starlette", 100]
    return rows, [Claim("/events: deliveries of sse-starlette at 100 subscribers", 20, ratio)]


def main() -> None:
    """Measure and print."""
    full = "--full" in sys.argv
    rows, claims = json_calls(full=full)
    more_rows, more_claims = event_deliveries(full=full)
    print_report("doors_http", rows + more_rows, claims + more_claims, PACKAGES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import uvloop

        with socket.socket(fileno=int(sys.argv[3])) as listener:
            uvloop.run(SERVERS[sys.argv[2]](listener))
    else:
        main()
