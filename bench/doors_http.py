"""The HTTP door against a bare Starlette route under uvicorn that validates with the same models.

Both answer the same bytes, and the client is the same: sockets that send the next request when the
answer to the last one is whole. Each server is a process of its own. Run alone, or as a part of
``bench/doors.py``, which joins what `json_calls` returns.

    python bench/doors_http.py [--json] [--full]
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from http_process import serve_named, serve_uvicorn, server
from report import Claim, Row, print_report

PACKAGES = ("uvicorn", "starlette", "pydantic", "uvloop", "httptools")

_BODY = b'{"prompt":"a lighthouse in the fog, seen from the sea","maxWords":40,"seed":"7"}'
_CLIENTS = 16
_PROGRAM = Path(__file__)


# Servers.


async def serve_ours(sock: socket.socket) -> None:
    """The HTTP door with one unary rpc."""
    from forge.captioner.v1 import CaptionChunk, CaptionRequest
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

    dispatcher = Dispatcher([Bench()], events=MemoryLog())
    await HttpDoor(dispatcher, health=lambda: True).run([sock])


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

    route = Route("/bench.v1.Bench/Say", say, methods=["POST"])
    await serve_uvicorn(Starlette(routes=[route]), sock)


SERVERS = {
    "ours": serve_ours,
    "starlette": serve_starlette,
}


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


# What is measured.


def json_calls(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """The JSON door against the bare route; the best of rounds that take turns."""
    best = {"ours": 0.0, "starlette": 0.0}
    with server(_PROGRAM, "ours") as (ours, _), server(_PROGRAM, "starlette") as (bare, _):
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


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_named(SERVERS, *sys.argv[2:4])
    else:
        print_report("doors_http", *json_calls(full="--full" in sys.argv), PACKAGES)
