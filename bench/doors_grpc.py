"""The gRPC door against a bare ``grpc.aio`` server with protobuf's own classes.

Both answer the same messages, each server is a process of its own on uvloop, and the client is the
same: 64 tasks that send bytes and wait for bytes. Run alone, or as a part of ``bench/doors.py``.

    python bench/doors_grpc.py [--json] [--full]
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Generator
from statistics import median
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
import uvloop
from report import Claim, Row, print_report

PACKAGES = ("grpcio", "protobuf", "pydantic", "uvloop")
_SERVICE = "forge.captioner.v1.CaptionerService"
_CONCURRENCY = 64


def serve_ours() -> None:
    """The gRPC door with typed models, as a user serves it."""
    from forge.captioner.v1 import CaptionChunk, CaptionerService, ListStylesResponse, Style
    from protoplane_server import Server, serve

    class Captioner(CaptionerService):
        async def list_styles(self, request: Any, ctx: Any) -> ListStylesResponse:
            return ListStylesResponse(styles=[Style.STYLE_PLAIN, Style.STYLE_VIVID])

        async def caption(self, request: Any, ctx: Any) -> AsyncIterator[CaptionChunk]:
            for index in range(request.max_words or 0):
                yield CaptionChunk(text=request.prompt, index=index)

    def say(server: Server) -> None:
        print(server.grpc_address, flush=True)

    serve(Captioner(), grpc="127.0.0.1:0", http=None, on_ready=say)


def serve_bare() -> None:
    """What one writes with grpc.aio alone."""
    uvloop.run(_serve_bare())


async def _serve_bare() -> None:
    from forge.captioner.v1 import captioner_pb2 as pb2

    async def list_styles(request: Any, context: Any) -> Any:
        return pb2.ListStylesResponse(styles=[pb2.STYLE_PLAIN, pb2.STYLE_VIVID])

    async def caption(request: Any, context: Any) -> Any:
        for index in range(request.max_words):
            yield pb2.CaptionChunk(text=request.prompt, index=index)

    handlers: dict[str, Any] = {
        "ListStyles": grpc.unary_unary_rpc_method_handler(
            list_styles,
            request_deserializer=pb2.ListStylesRequest.FromString,
            response_serializer=pb2.ListStylesResponse.SerializeToString,
        ),
        "Caption": grpc.unary_stream_rpc_method_handler(
            caption,
            request_deserializer=pb2.CaptionRequest.FromString,
            response_serializer=pb2.CaptionChunk.SerializeToString,
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


SERVERS = {"ours": serve_ours, "bare": serve_bare}


@contextlib.contextmanager
def server(name: str) -> Generator[str]:
    """A server in its own process: its address."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _channel(address: str) -> Any:
    # Without serializers it carries bytes, which its stubs cannot say.
    return grpc.aio.insecure_channel(address)


async def unary_calls_per_second(address: str, seconds: float) -> float:
    """Unary calls answered each second."""
    async with _channel(address) as channel:
        call = channel.unary_unary(f"/{_SERVICE}/ListStyles")
        await call(b"")
        answered = 0

        async def caller() -> None:
            nonlocal answered
            while perf_counter() < until:
                await call(b"")
                answered += 1

        started = perf_counter()
        until = started + seconds
        await asyncio.gather(*(caller() for _ in range(_CONCURRENCY)))
        return answered / (perf_counter() - started)


async def messages_per_second(address: str, seconds: float) -> float:
    """Messages of streams that come in each second, over 16 streams at a time."""
    from forge.captioner.v1 import CaptionRequest

    request = CaptionRequest(prompt="word", max_words=200).to_bytes()
    async with _channel(address) as channel:
        call = channel.unary_stream(f"/{_SERVICE}/Caption")
        received = 0

        async def caller() -> None:
            nonlocal received
            while perf_counter() < until:
                async for _ in call(request):
                    received += 1

        started = perf_counter()
        until = started + seconds
        await asyncio.gather(*(caller() for _ in range(16)))
        return received / (perf_counter() - started)


def grpc_calls(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """The gRPC door against the bare server: medians of rounds that take turns."""
    rows: list[Row] = []
    claims: list[Claim] = []
    measures = (
        ("unary calls", "calls/s", unary_calls_per_second, "calls per second"),
        ("server streams", "messages/s", messages_per_second, "streamed messages per second"),
    )
    for metric, unit, measure, said in measures:
        rounds: list[tuple[float, float]] = []
        # One process can be some 15 % faster than the next of the same program, by where its memory
        # happens to lie, and the machine's other guests come and go: so each side has several
        # processes, each round measures both sides, and the median round counts.
        for _ in range(16 if full else 8):
            with server("ours") as ours, server("bare") as bare:
                rounds += [
                    (uvloop.run(measure(ours, 0.4)), uvloop.run(measure(bare, 0.4)))
                    for _ in range(4)
                ]
        rows.append(Row("gRPC door", metric, median(our for our, _ in rounds), unit))
        rows.append(Row("bare grpc.aio", metric, median(its for _, its in rounds), unit))
        ratio = median(our / its for our, its in rounds)
        claims.append(Claim(f"gRPC door: {said} of a bare grpc.aio server", 0.8, ratio))
    return rows, claims


def main() -> None:
    """Measure and print."""
    rows, claims = grpc_calls(full="--full" in sys.argv)
    print_report("doors_grpc", rows, claims, PACKAGES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        SERVERS[sys.argv[2]]()
    else:
        main()
