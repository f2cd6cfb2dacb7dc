"""An engine's side of KV events over ZeroMQ, as vLLM does it: a PUB and a ROUTER socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import zmq
import zmq.asyncio


class VllmPublisher:
    """Publishes batches and answers with old ones; use it with `publishing`."""

    def __init__(self, context: zmq.asyncio.Context, kept: int, port: int) -> None:
        self._pub = context.socket(zmq.PUB)
        self._router = context.socket(zmq.ROUTER)
        for each in (self._pub, self._router):
            each.setsockopt(zmq.LINGER, 0)
        where = "tcp://127.0.0.1"
        self.port = port or self._pub.bind_to_random_port(where)
        if port:
            self._pub.bind(f"{where}:{port}")
        self.endpoint = f"{where}:{self.port}"
        self.replay = f"{where}:{self._router.bind_to_random_port(where)}"
        self.batches: list[bytes] = []
        self.first = 0
        self._kept = kept

    async def send(self, *events: Any, lost: bool = False) -> None:
        """Publish a batch of events; one that is lost can be had by replay only."""
        payload = msgspec.msgpack.encode([time.time(), list(events), 0])
        number = self.first + len(self.batches)
        self.batches.append(payload)
        if len(self.batches) > self._kept:
            self.batches.pop(0)
            self.first += 1
        if not lost:
            await send(self._pub, b"", number.to_bytes(8, "big"), payload)

    async def serve(self) -> None:
        """Answer requests for old batches, for ever."""
        while True:
            who, empty, asked = await self._router.recv_multipart()
            for number, payload in enumerate(self.batches, self.first):
                if number >= int.from_bytes(asked, "big"):
                    await send(self._router, who, empty, number.to_bytes(8, "big"), payload)
            end = (-1).to_bytes(8, "big", signed=True)
            await send(self._router, who, empty, end, b"")

    def close(self) -> None:
        """Close its sockets."""
        self._pub.close()
        self._router.close()


@contextlib.asynccontextmanager
async def publishing(kept: int = 1000, port: int = 0) -> AsyncGenerator[VllmPublisher]:
    """An engine that publishes until the block ends."""
    with zmq.asyncio.Context() as context:
        publisher = VllmPublisher(context, kept, port)
        task = asyncio.create_task(publisher.serve())
        try:
            yield publisher
        finally:
            task.cancel()
            await asyncio.wait([task])
            publisher.close()


async def send(socket: zmq.asyncio.Socket, *frames: bytes) -> None:
    """Send a message."""
    for frame in frames[:-1]:
        await socket.send(frame, zmq.SNDMORE)
    await socket.send(frames[-1])


def stored(*hashes: int, parent: int | None = None, size: int = 2) -> list[Any]:
    """An event as older versions of vLLM send it: a list. The tokens of block n are n, n, …."""
    tokens = [hash_ for hash_ in hashes for _ in range(size)]
    return ["BlockStored", list(hashes), parent, tokens, size, None, "GPU", None]


def removed(*hashes: int) -> list[Any]:
    """The same for blocks that are gone."""
    return ["BlockRemoved", list(hashes), "GPU"]
