"""A carrier on what reads and writes by waiting: a stream of gRPC, requests of HTTP.

While something is being written, what is sent meanwhile gathers and then leaves together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Receiver, Started

_HIGH_WATER_BYTES = 1024 * 1024
_LOW_WATER_BYTES = 256 * 1024
_CLOSE_S = 5.0


class Pump(Protocol):
    """What moves the bytes; one task reads and one writes."""

    async def read(self) -> bytes | None:
        """What came next; ``None`` once the other end has closed.

        Raises:
            PlaneError: The way is broken.
        """
        ...

    async def write(self, pieces: list[bytes]) -> None:
        """Write bytes that came in pieces, once the other end and what is between can take them.

        Raises:
            PlaneError: The way is broken.
        """
        ...

    async def finish(self) -> bool:
        """Tell the other end of the close; whether `read` will say that it knows.

        Raises:
            PlaneError: The way is broken.
        """
        ...


class PumpedCarrier:
    """A `Carrier` on a `Pump`; whoever made it calls `run`.

    Args:
        started: Gives who is told of what comes.
        pump: What reads and writes.
        peer: Who is at the other end.
        identity: Who the other end proved to be.
        write_bytes: Most that is written at once.

    Attributes:
        aborted: Whether this end gave it up.
        broken: Whether it ended because something failed.
    """

    max_batch_bytes = 1 << 30
    burst_frames = 16

    def __init__(
        self,
        started: Started,
        pump: Pump,
        *,
        peer: str,
        identity: str = "",
        write_bytes: int,
    ) -> None:
        self.peer = peer
        self.identity = identity
        self.aborted = False
        self.broken = False
        self._pump = pump
        self._most = write_bytes
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._held = 0
        self._congested = False
        self._closing = False
        self._lost = False
        self._unsent: PlaneError | None = None
        self._idle: asyncio.Future[None] | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._receiver: Receiver = started(self)

    def send(self, data: bytes) -> None:
        """See `Carrier`."""
        if self._closing:
            return
        size, most = len(data), self._most
        if size <= most:
            self._queue.append(data)
        else:
            self._queue.extend(data[start : start + most] for start in range(0, size, most))
        self._held += size
        self._wake_writer()
        if self._held > _HIGH_WATER_BYTES and not self._congested:
            self._congested = True
            self._receiver.congested()

    def pause_receiving(self) -> None:
        """See `Carrier`."""
        if self._resumed is None and not self._closing:
            self._resumed = self._loop.create_future()

    def resume_receiving(self) -> None:
        """See `Carrier`."""
        if self._resumed is not None:
            self._resumed.set_result(None)
            self._resumed = None

    def close(self) -> None:
        """See `Carrier`."""
        self._closing = True
        self.resume_receiving()
        self._wake_writer()

    def abort(self) -> None:
        """See `Carrier`."""
        self.close()
        self.aborted = True
        if not self._end.done():
            self._end.set_result(None)

    async def run(self) -> None:
        """Move bytes until the carrier is over, then tell of it.

        Cancelling it counts as the loss of the other end.
        """
        reader = self._loop.create_task(self._read_all())
        writer = self._loop.create_task(self._write_all())
        error: PlaneError | None = PlaneError(
            Code.UNAVAILABLE, f"{self.peer}: the other end is gone"
        )
        try:
            ends = (reader, writer, self._end)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not reader.done() and not self._end.done() and writer.result():
                await asyncio.wait(
                    (reader, self._end), timeout=_CLOSE_S, return_when=asyncio.FIRST_COMPLETED
                )
            flushed = writer.done() and self._unsent is None
            if self.aborted or (self._closing and flushed):
                error = None
            else:
                error = reader.result() if reader.done() else self._unsent
        finally:
            self._closing = True
            self._queue.clear()
            self._over(error)
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    def _wake_writer(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    def _over(self, error: PlaneError | None) -> None:
        if not self._lost:
            self._lost = True
            self.broken = error is not None
            self._receiver.lost(error)

    async def _read_all(self) -> PlaneError | None:
        read, received = self._pump.read, self._receiver.received
        try:
            while (data := await read()) is not None:
                while self._resumed is not None:
                    await asyncio.shield(self._resumed)
                if data and not self._closing:
                    received(data)
        except PlaneError as error:
            return error
        return None

    async def _write_all(self) -> bool:
        """Write until `close`; then whether there is still something to wait for."""
        queue, write = self._queue, self._pump.write
        try:
            while True:
                if queue:
                    size, pieces = self._batch()
                    await write(pieces)
                    self._held -= size
                    if self._congested and self._held <= _LOW_WATER_BYTES:
                        self._congested = False
                        if not self._closing:
                            self._receiver.uncongested()
                elif self._closing:
                    return await self._finish()
                else:
                    self._idle = self._loop.create_future()
                    await self._idle
                    # Who else is about to send in this turn comes along: half as many bytes
                    # again in each write, and every write of these is dear.
                    await asyncio.sleep(0)
        except PlaneError as error:
            self._unsent = error
            # The reader may find out why.
            return True

    async def _finish(self) -> bool:
        try:
            return await self._pump.finish()
        except PlaneError:
            # All that was sent arrived; the other end may have closed too.
            return False

    def _batch(self) -> tuple[int, list[bytes]]:
        queue, most = self._queue, self._most
        data = queue.popleft()
        size = len(data)
        pieces = [data]
        while queue and size + len(queue[0]) <= most:
            data = queue.popleft()
            pieces.append(data)
            size += len(data)
        return size, pieces
