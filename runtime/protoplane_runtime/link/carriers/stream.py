"""What the carriers over stream sockets share: unix, TCP and TLS.

Frames follow each other without anything between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Receiver, Started

_HIGH_WATER_BYTES = 1024 * 1024


class StreamCarrier(asyncio.Protocol):
    """A `Carrier` on a transport of asyncio, and the protocol of that transport.

    Args:
        started: Called with this carrier once it is connected; gives who is told of what comes.
    """

    max_batch_bytes = 1 << 30
    burst_frames = 16

    def __init__(self, started: Started) -> None:
        self._started = started
        self._receiver: Receiver
        self._transport: asyncio.Transport
        self.peer = ""
        self.identity = ""
        self._over = True
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop has transports of its own that derive from nothing of asyncio.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self.peer = _peer(transport)
        self.identity = common_name(transport.get_extra_info("peercert"))
        self._over = False
        self._receiver = self._started(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._receiver.received(data)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._receiver.congested()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._receiver.uncongested()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._over:
            return
        self._over = True
        self._closing = True
        self._receiver.lost(
            None if exc is None else PlaneError(Code.UNAVAILABLE, f"{self.peer}: {exc}")
        )

    def send(self, data: bytes) -> None:
        """See `Carrier`."""
        if not self._closing:
            self._transport.write(data)

    def pause_receiving(self) -> None:
        """See `Carrier`."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_receiving(self) -> None:
        """See `Carrier`."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Carrier`."""
        self._closing = True
        self._transport.close()

    def give_up(self) -> None:
        """Be lost now: connecting was cancelled, which transports of uvloop do not tell of."""
        if not self._over:
            self._transport.abort()
            self.connection_lost(None)

    def abort(self) -> None:
        """See `Carrier`."""
        # A transport of asyncio that has ended may fail when it is aborted.
        if not self._over:
            self._closing = True
            self._transport.abort()


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """The common name in a certificate as `ssl.SSLSocket.getpeercert` gives it; empty for none."""
    subject: tuple[tuple[tuple[str, str], ...], ...] = (certificate or {}).get("subject", ())
    names = [value for part in subject for name, value in part if name == "commonName"]
    return names[0] if names else ""


def _peer(transport: asyncio.Transport) -> str:
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return f"{peer[0]}:{peer[1]}"
    return f"unix:{peer}" if peer else "unix:"
