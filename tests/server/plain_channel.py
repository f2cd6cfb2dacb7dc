"""The least `Channel` over `grpc.aio`, so that tests of the gRPC door need no client of ours."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.rpc.status_pb2 import Status

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_server.errors import from_status


class PlainChannel:
    """Carries calls over one `grpc.aio` channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def unary(self, method: MethodSpec[Any, Any], request: Any, options: CallOptions) -> Any:
        call: Any = self._stub("unary_unary", method)(request, **_options(options))
        return await _one(call)

    async def server_stream(
        self, method: MethodSpec[Any, Any], request: Any, options: CallOptions
    ) -> AsyncIterator[Any]:
        call: Any = self._stub("unary_stream", method)(request, **_options(options))
        async for answer in _all(call):
            yield answer

    async def client_stream(
        self, method: MethodSpec[Any, Any], requests: AsyncIterable[Any], options: CallOptions
    ) -> Any:
        call: Any = self._stub("stream_unary", method)(**_options(options))
        try:
            async for request in requests:
                await call.write(request)
            await call.done_writing()
        except BaseException as error:
            if isinstance(error, grpc.aio.AioRpcError | grpc.aio.UsageError):
                return await _one(call)
            call.cancel()
            raise
        return await _one(call)

    async def bidi_stream(
        self, method: MethodSpec[Any, Any], requests: AsyncIterable[Any], options: CallOptions
    ) -> AsyncIterator[Any]:
        call: Any = self._stub("stream_stream", method)(requests, **_options(options))
        async for answer in _all(call):
            yield answer

    def _stub(self, kind: str, method: MethodSpec[Any, Any]) -> Any:
        return getattr(self._channel, kind)(
            method.path,
            request_serializer=method.request.to_bytes,
            response_deserializer=method.response.from_bytes,
        )


def _options(options: CallOptions) -> dict[str, Any]:
    metadata = options.get("metadata") or {}
    return {"timeout": options.get("timeout_s"), "metadata": tuple(metadata.items())}


async def _one(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise plane_error(error) from error
    finally:
        call.cancel()


async def _all(call: Any) -> AsyncIterator[Any]:
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise plane_error(error) from error
    finally:
        call.cancel()


def plane_error(error: grpc.aio.AioRpcError) -> PlaneError:
    """The error that a status of gRPC stands for."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            return from_status(Status.FromString(value))
    code: Any = error.code().value
    return PlaneError(Code(code[0]), error.details() or "")
