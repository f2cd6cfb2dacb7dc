"""Links that come in through the gRPC door, from `protoplane_runtime.link.carriers.grpc_stream`."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.grpc_stream import (
    MAX_MESSAGE,
    METHOD,
    decode,
    encode,
    write_bytes,
)
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.pumped import PumpedCarrier

_CANCELLATION_S = 0.01
_CLIENT_BYTES = 4 * 1024 * 1024
"""What every client of gRPC takes unless told otherwise."""
_ENDED = "the stream ended"

_Context = Any  # grpc.aio.ServicerContext[bytes, bytes], whose methods are not typed well.


def link_handler(started: Started, max_message_bytes: int) -> grpc.GenericRpcHandler:
    """What `LinkService` is served by.

    Args:
        started: Takes a link on.
        max_message_bytes: Largest gRPC message that the server takes.
    """

    async def carry(_requests: Any, context: _Context) -> None:
        context.set_compression(grpc.Compression.NoCompression)
        await context.send_initial_metadata(((MAX_MESSAGE, str(max_message_bytes)),))
        carrier = PumpedCarrier(
            started,
            _ServerPump(context),
            peer=context.peer(),
            identity=_identity(context),
            write_bytes=write_bytes(_CLIENT_BYTES),
        )
        await carrier.run()
        if carrier.aborted:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the link was aborted")

    make: Any = grpc.stream_stream_rpc_method_handler
    _, service, method = METHOD.split("/")
    return grpc.method_handlers_generic_handler(service, {method: make(carry)})


class _ServerPump:
    """The end of a stream that was called; see `pumped.Pump`."""

    def __init__(self, context: _Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        """See `Pump`."""
        try:
            message: Any = await self._context.read()
        except grpc.aio.BaseError as error:
            raise PlaneError(Code.UNAVAILABLE, _ENDED) from error
        if isinstance(message, bytes):
            return decode(message)
        # grpc.aio tells of the end first, of a cancellation that came with it a moment later.
        await asyncio.sleep(_CANCELLATION_S)
        return None

    async def write(self, pieces: list[bytes]) -> None:
        """See `Pump`."""
        try:
            await self._context.write(encode(pieces))
        except grpc.aio.BaseError as error:
            raise PlaneError(Code.UNAVAILABLE, _ENDED) from error

    async def finish(self) -> bool:
        """See `Pump`; the status, which follows when the handler returns, says it."""
        return False


def _identity(context: _Context) -> str:
    names = context.auth_context().get("x509_common_name") or (b"",)
    return next(iter(names)).decode("utf-8", "replace")
