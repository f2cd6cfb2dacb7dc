"""What a `GrpcChannel` makes of servers that are not ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from forge.captioner.v1 import (
    CaptionChunk,
    CaptionerClient,
    CaptionerService,
    CaptionRequest,
    CollectRequest,
    ConverseRequest,
    ListStylesRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect

pytestmark = pytest.mark.anyio

SERVICE = CaptionerService.spec.full_name


@asynccontextmanager
async def bare_server(handlers: dict[str, Any]) -> AsyncGenerator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def lines(count: int) -> AsyncIterator[ConverseRequest]:
    for number in range(count):
        yield ConverseRequest(line=str(number))


async def test_a_refused_stream_keeps_the_status_of_the_server() -> None:
    async with bare_server({}) as address, connect(address) as plane:
        client = CaptionerClient(plane)
        for _ in range(100):
            with pytest.raises(PlaneError) as caught:
                async for _answer in client.converse(lines(3)):
                    pass
            assert caught.value.code is Code.UNIMPLEMENTED, caught.value


async def test_details_are_unpacked_and_unknown_ones_kept() -> None:
    status = status_pb2.Status(code=9, message="not now")
    status.details.add().Pack(error_details_pb2.RetryInfo())
    status.details.add(type_url="type.googleapis.com/no.such.Type", value=b"x")

    async def list_styles(_request: bytes, context: Any) -> bytes:
        trailers = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", trailers)
        raise AssertionError

    handlers: dict[str, Any] = {"ListStyles": grpc.unary_unary_rpc_method_handler(list_styles)}
    async with bare_server(handlers) as address, connect(address) as plane:
        with pytest.raises(PlaneError) as caught:
            await CaptionerClient(plane).list_styles(ListStylesRequest())
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert [type(d).__name__ for d in caught.value.details] == ["RetryInfo", "Any"]


async def test_an_answer_of_another_type_is_internal() -> None:
    async def list_styles(_request: bytes, _context: Any) -> bytes:
        return b"\xff\xff"

    handlers: dict[str, Any] = {"ListStyles": grpc.unary_unary_rpc_method_handler(list_styles)}
    async with bare_server(handlers) as address, connect(address) as plane:
        with pytest.raises(PlaneError, match="ListStyles") as caught:
            await CaptionerClient(plane).list_styles(ListStylesRequest())
    assert caught.value.code is Code.INTERNAL


async def test_what_the_requests_raise_is_raised() -> None:
    async def collect(requests: Any, _context: Any) -> bytes:
        async for _ in requests:
            pass
        return b""

    async def failing() -> AsyncIterator[CollectRequest]:
        yield CollectRequest(text="a")
        raise ZeroDivisionError

    handlers: dict[str, Any] = {"Collect": grpc.stream_unary_rpc_method_handler(collect)}
    async with bare_server(handlers) as address, connect(address) as plane:
        with pytest.raises(ZeroDivisionError):
            await CaptionerClient(plane).collect(failing())


async def test_leaving_a_stream_cancels_the_handler_at_once() -> None:
    cancelled = asyncio.Event()

    async def caption(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield CaptionChunk(text="x").to_bytes()
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    handlers: dict[str, Any] = {"Caption": grpc.unary_stream_rpc_method_handler(caption)}
    async with bare_server(handlers) as address, connect(address) as plane:
        async for _ in CaptionerClient(plane).caption(CaptionRequest(prompt="x")):
            break
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_closing_the_plane_ends_what_is_open() -> None:
    async def list_styles(_request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(30)
        return b""

    handlers: dict[str, Any] = {"ListStyles": grpc.unary_unary_rpc_method_handler(list_styles)}
    async with bare_server(handlers) as address:
        plane = connect(address)
        client = CaptionerClient(plane)
        call = asyncio.create_task(client.list_styles(ListStylesRequest()))
        await asyncio.sleep(0.1)
        await plane.aclose()
        with pytest.raises(PlaneError) as caught:
            await call
        assert caught.value.code is Code.CANCELLED
        with pytest.raises(PlaneError, match="closed") as again:
            await client.list_styles(ListStylesRequest())
        assert again.value.code is Code.FAILED_PRECONDITION


async def test_an_absent_server_is_unavailable() -> None:
    async with connect("127.0.0.1:1") as plane:
        with pytest.raises(PlaneError, match=r"cannot reach 127\.0\.0\.1:1") as caught:
            await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=5)
    assert caught.value.code is Code.UNAVAILABLE


async def test_metadata_that_cannot_travel_is_refused() -> None:
    async with bare_server({}) as address, connect(address) as plane:
        with pytest.raises(PlaneError) as caught:
            await CaptionerClient(plane).list_styles(ListStylesRequest(), metadata={"a name": "x"})
    assert caught.value.code is Code.INVALID_ARGUMENT
