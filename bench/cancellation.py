"""How soon handlers hear that their caller has gone, on each door and for each kind of rpc.

200 calls wait for ever in a server process; then all 200 callers leave in one turn of their event
loop. A figure is the time from a caller's leaving to its handler's ``CancelledError``, the
caller's own work included. Both processes read ``time.monotonic()``, which is one clock on Linux.

    python bench/cancellation.py [--json]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from statistics import median
from typing import Any, Self

import uvloop
from report import Claim, Row, print_report

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerService,
    CaptionRequest,
    CollectRequest,
    CollectResponse,
    ConverseRequest,
    ConverseResponse,
    ListStylesRequest,
    ListStylesResponse,
)
from protoplane_base import CallOptions, Channel, Context
from protoplane_client.grpc_channel import GrpcChannel
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_server import Options, Server

PACKAGES = ("grpcio", "httpx", "uvicorn", "uvloop")
CALLS = 200
BOUND_MS = 100.0

_METHODS = CaptionerService.spec.methods
_INDEX = "x-call"

Leave = Callable[[], object]
Begin = Callable[[int], Awaitable[Leave]]


# The server.


class Waiting(CaptionerService):
    """Waits for ever in each call, and notes when it is cancelled there."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled: dict[int, float] = {}

    async def list_styles(self, request: ListStylesRequest, ctx: Context) -> ListStylesResponse:
        """Unary."""
        await self._wait(ctx)
        return ListStylesResponse()

    async def caption(self, request: CaptionRequest, ctx: Context) -> AsyncIterator[CaptionChunk]:
        """A stream of answers."""
        yield CaptionChunk(text=request.prompt)
        await self._wait(ctx)

    async def collect(
        self, requests: AsyncIterator[CollectRequest], ctx: Context
    ) -> CollectResponse:
        """A stream of requests."""
        await self._wait(ctx)
        return CollectResponse()

    async def converse(
        self, requests: AsyncIterator[ConverseRequest], ctx: Context
    ) -> AsyncIterator[ConverseResponse]:
        """Streams both ways."""
        async for request in requests:
            yield ConverseResponse(line=request.line)
            await self._wait(ctx)

    async def _wait(self, ctx: Context) -> None:
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled[int(ctx.metadata[_INDEX])] = time.monotonic()
            raise
        finally:
            self.waiting -= 1


async def serve() -> None:
    """Serve both doors, and answer each line of the standard input with what was noted."""
    component = Waiting()
    async with Server(component, Options(grpc="127.0.0.1:0", http="127.0.0.1:0")) as server:
        print(server.grpc_address, server.http_url, flush=True)
        loop = asyncio.get_running_loop()

        def tell(line: str) -> None:
            if line == "forget":
                component.cancelled.clear()
            noted = {"waiting": component.waiting, "cancelled": component.cancelled}
            print(json.dumps(noted), flush=True)

        def follow() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(tell, line.strip())

        threading.Thread(target=follow, daemon=True).start()
        await asyncio.Event().wait()


class Process:
    """The server in its own process; leave it to end it."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self.grpc, self.http = self._answers.readline().split()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._orders.close()
        self._answers.close()

    def ask(self, line: str = "") -> tuple[int, dict[int, float]]:
        """How many calls wait, and when the others were cancelled."""
        self._orders.write(f"{line}\n")
        self._orders.flush()
        noted = json.loads(self._answers.readline())
        return noted["waiting"], {int(index): at for index, at in noted["cancelled"].items()}


# The callers.


def _begin_task(call: Callable[[int], Coroutine[Any, Any, object]]) -> Begin:
    """Begin calls as tasks, which their callers cancel."""

    async def begin(index: int) -> Leave:
        task = asyncio.ensure_future(call(index))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return task.cancel

    return begin


_tasks: set[asyncio.Task[object]] = set()


async def _one(message: Any) -> AsyncIterator[Any]:
    yield message


def _channel_calls(channel: Channel) -> dict[str, Begin]:
    """A call of each kind through one of our channels."""

    def options(index: int) -> CallOptions:
        return {"metadata": {_INDEX: str(index)}}

    async def unary(index: int) -> None:
        await channel.unary(_METHODS["ListStyles"], ListStylesRequest(), options(index))

    async def server_stream(index: int) -> None:
        request = CaptionRequest(prompt="the sea")
        async for _ in channel.server_stream(_METHODS["Caption"], request, options(index)):
            pass

    async def client_stream(index: int) -> None:
        requests = _one(CollectRequest(text="the sea"))
        await channel.client_stream(_METHODS["Collect"], requests, options(index))

    async def bidi_stream(index: int) -> None:
        requests = _one(ConverseRequest(line="the sea"))
        async for _ in channel.bidi_stream(_METHODS["Converse"], requests, options(index)):
            pass

    calls = {
        "unary": unary,
        "server stream": server_stream,
        "client stream": client_stream,
        "bidi stream": bidi_stream,
    }
    return {kind: _begin_task(call) for kind, call in calls.items()}


def _socket_call(url: str, method: str, body: str, accept: str, until: bytes) -> Begin:
    """Begin calls on sockets of their own, which their callers close.

    ``until`` is what they wait for in the answer before they leave; a unary call has none.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")

    async def begin(index: int) -> Leave:
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST {_METHODS[method].path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"{_INDEX}: {index}\r\n\r\n{body}"
        )
        writer.write(head.encode())
        if until:
            await reader.readuntil(until)
        return writer.close

    return begin


# What is measured.


async def _measure(server: Process, begin: Begin) -> list[float]:
    """Milliseconds that each handler took to hear; those that never heard are missing."""
    server.ask("forget")
    leaves = await asyncio.gather(*(begin(index) for index in range(CALLS)))
    while server.ask()[0] < CALLS:  # noqa: ASYNC110  (it waits for another process)
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)  # What the callers have been sent arrives.
    left: list[float] = []
    for leave in leaves:
        left.append(time.monotonic())
        leave()
    await asyncio.sleep(1)
    _, heard = server.ask()
    return [(at - left[index]) * 1000 for index, at in heard.items()]


async def _all(server: Process) -> dict[str, list[float]]:
    grpc, session = GrpcChannel(server.grpc), HttpSession(server.http)
    text, stream = "application/json", "text/event-stream"
    cases = {
        **{f"gRPC, {kind}": begin for kind, begin in _channel_calls(grpc).items()},
        **{
            f"Connect, {kind}": begin
            for kind, begin in _channel_calls(HttpChannel(session)).items()
        },
        "JSON on a socket, unary": _socket_call(server.http, "ListStyles", "{}", text, b""),
        "SSE, server stream": _socket_call(
            server.http, "Caption", '{"prompt":"the sea"}', stream, b"data: "
        ),
    }
    try:
        return {name: await _measure(server, begin) for name, begin in cases.items()}
    finally:
        await grpc.aclose()
        await session.aclose()


def main() -> None:
    """Measure and print."""
    with Process() as server:
        measured = uvloop.run(_all(server))
    rows: list[Row] = []
    claims: list[Claim] = []
    for name, waits in measured.items():
        rows.append(Row(name, "handlers that heard", len(waits), f"of {CALLS}"))
        rows.append(Row(name, "p50", median(waits or [float("nan")]), "ms"))
        rows.append(Row(name, "max", max(waits, default=float("nan")), "ms"))
        soon = sum(wait <= BOUND_MS for wait in waits)
        claim = f"{name}: of {CALLS} handlers, those that heard within {BOUND_MS:g} ms"
        claims.append(Claim(claim, CALLS, soon))
    print_report("cancellation", rows, claims, PACKAGES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve())
    else:
        main()
