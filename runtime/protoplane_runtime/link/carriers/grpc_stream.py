"""Links over gRPC (``link+grpc://host:port``, ``link+grpcs://``): one bidirectional stream each.

They pass proxies and load balancers that let gRPC through, and come in on the port of the gRPC
door; `protoplane_server.link_grpc` is that end. Under load each message carries many frames, and
costs what gRPC asks only once for all.

A link pings when it is idle, so HTTP/2's own pings stay off.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from protoplane.v1.link_pb2 import CarryRequest
from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.pumped import PumpedCarrier
from protoplane_runtime.tls import ClientTls

METHOD: Final = "/protoplane.v1.LinkService/Carry"
MAX_MESSAGE: Final = "protoplane-link-max-message-bytes"
"""Name in the server's first metadata that says how large a gRPC message it takes."""

_MESSAGE_BYTES = 64 * 1024
"""Largest message that is written: enough for speed, far below gRPC's default limit of 4 MiB."""
_ENVELOPE_BYTES = 8
_ENDED = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
_CONNECT_S = 10.0
_TAG = b"\x0a"


def write_bytes(max_message_bytes: int) -> int:
    """How many bytes to write at once where the other end takes messages of a size."""
    return max(1, min(_MESSAGE_BYTES, max_message_bytes - _ENVELOPE_BYTES))


def encode(pieces: list[bytes]) -> bytes:
    """A ``CarryRequest`` or ``CarryResponse`` of some bytes in pieces; the two look the same."""
    size = sum(map(len, pieces))
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"".join((_TAG, length, *pieces))


def decode(message: bytes) -> bytes:
    """The frames in a ``CarryRequest`` or ``CarryResponse``.

    Raises:
        PlaneError: INVALID_ARGUMENT where it is none.
    """
    if message[:1] == _TAG:
        size = shift = 0
        for start in range(1, min(len(message), 6)):
            byte = message[start]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                # Anything but this one field is left to protobuf.
                if start + 1 + size == len(message):
                    return message[start + 1 :]
                break
    try:
        return CarryRequest.FromString(message).frames
    except DecodeError as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"a message of {len(message)} bytes came that is no CarryRequest"
        ) from error


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    channel = _channel(address, tls)
    call: Any = None
    try:
        call = cast("Any", channel).stream_stream(METHOD)()
        try:
            async with asyncio.timeout(_CONNECT_S):
                metadata: dict[str, Any] = dict(await call.initial_metadata() or ())
                most = str(metadata.get(MAX_MESSAGE, ""))
                if not most.isdigit():
                    # Nobody who takes links; the status, which follows, says more.
                    raise await _failure(address, call)
        except TimeoutError as error:
            raise PlaneError(
                Code.UNAVAILABLE, f"{address} did not answer within {_CONNECT_S:g} s"
            ) from error
        carrier = PumpedCarrier(
            started,
            _ClientPump(address, call),
            peer=_target(address)[1],
            write_bytes=write_bytes(int(most)),
        )
    except BaseException:
        if call is not None:
            call.cancel()
        await channel.close()
        raise
    task = asyncio.get_running_loop().create_task(_run(carrier, channel, call))
    _running.add(task)
    task.add_done_callback(_running.discard)


_running: set[asyncio.Task[None]] = set()
"""The loop keeps no strong reference to its tasks; a carrier's task lives as long as its stream."""


async def _run(carrier: PumpedCarrier, channel: grpc.aio.Channel, call: Any) -> None:
    try:
        await carrier.run()
    finally:
        call.cancel()
        await channel.close()


class _ClientPump:
    """The end of a stream that called."""

    def __init__(self, address: str, call: Any) -> None:
        self._address = address
        self._call = call

    async def read(self) -> bytes | None:
        """See `Pump`."""
        try:
            message: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await _failure(self._address, self._call) from error
        return decode(message) if isinstance(message, bytes) else None

    async def write(self, pieces: list[bytes]) -> None:
        """See `Pump`."""
        try:
            await self._call.write(encode(pieces))
        except _ENDED as error:
            raise PlaneError(Code.UNAVAILABLE, f"{self._address}: the stream ended") from error

    async def finish(self) -> bool:
        """See `Pump`."""
        try:
            await self._call.done_writing()
        except _ENDED as error:
            raise PlaneError(Code.UNAVAILABLE, f"{self._address}: the stream ended") from error
        return True


async def _failure(address: str, call: Any) -> PlaneError:
    code, details = await call.code(), await call.details()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return PlaneError(
            Code.UNAVAILABLE, f"{address} takes no links over gRPC: {details or code.name}"
        )
    return PlaneError(Code.UNAVAILABLE, f"{address}: {details or code.name}")


def _channel(address: str, tls: ClientTls | None) -> grpc.aio.Channel:
    secure, target = _target(address)
    options: list[tuple[str, Any]] = [
        # A connection of its own: links are closed one by one, and balanced by whoever opens them.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    if not secure:
        return grpc.aio.insecure_channel(target, options)
    tls = tls or ClientTls()
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return grpc.aio.secure_channel(target, tls.grpc_credentials(), options)


def _target(address: str) -> tuple[bool, str]:
    name, _, target = address.partition("://")
    target = target.rstrip("/")
    host, _, port = target.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address!r} has no host and port; one looks like link+grpc://127.0.0.1:50051",
        )
    return name == "link+grpcs", target
