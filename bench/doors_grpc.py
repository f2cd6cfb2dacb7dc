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
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
import uvloop
from report import Claim, Row, print_report

PACKAGES = ("grpcio", "protobuf", "pydantic", "uvloop")
_SERVICE = "forge.captioner.v1.CaptionerService"
_CONCURRENCY = 64


async def serve_ours() -> None:
    """The gRPC door, with typed models."""
    from forge.captioner.v1 import CaptionChunk, CaptionerService, ListStylesResponse, Style
    from protoplane_server import Options, Server

    class Captioner(CaptionerService):
        async def list_styles(self, request: Any, ctx: Any) -> ListStylesResponse:
            return ListStylesResponse(styles=[Style.STYLE_PLAIN, Style.STYLE_VIVID])

        async def caption(self, request: Any, ctx: Any) -> AsyncIterator[CaptionChunk]:
            for index in range(request.max_words or 0):
                yield CaptionChunk(text=request.prompt, index=index)

    async with Server([Captioner()], Options(grpc="127.0.0.1:0", http=None)) as server:
        print(server.grpc_address, flush=True)
        await asyncio.Event().wait()


async def serve_bare() -> None:
    """What one writes with grpc.aio alone."""
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
    """The gRPC door against the bare server; the best of rounds that take turns."""
    rows: list[Row] = []
    claims: list[Claim] = []
    measures = (
        ("unary calls", "calls/s", unary_calls_per_second, "calls per second"),
        ("server streams", "messages/s", messages_per_second, "streamed messages per second"),
    )
    with server("ours") as ours, server("bare") as bare:
        for metric, unit, measure, said in measures:
            best = {"ours": 0.0, "bare": 0.0}
            for _ in range(40 if full else 12):
                for name, address in (("ours", ours), ("bare", bare)):
                    best[name] = max(best[name], uvloop.run(measure(address, 0.5)))
            rows.append(Row("gRPC door", metric, best["ours"], unit))
            rows.append(Row("bare grpc.aio", metric, best["bare"], unit))
            ratio = best["ours"] / best["bare"]
            claims.append(Claim(f"gRPC door: {said} of a bare grpc.aio server", 0.8, ratio))
    return rows, claims


def main() -> None:
    """Measure and print."""
    rows, claims = grpc_calls(full="--full" in sys.argv)
    print_report("doors_grpc", rows, claims, PACKAGES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        uvloop.run(SERVERS[sys.argv[2]]())
    else:
        main()
