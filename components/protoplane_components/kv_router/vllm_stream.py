"""Follows the KV events that an engine sends over ZeroMQ, and asks again for what it missed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import zmq
import zmq.asyncio

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.vllm_wire import VllmBatch, read_batch

_log = logging.getLogger("protoplane.router")

_END = (-1).to_bytes(8, "big", signed=True)
_HIGH_WATER = 100_000
"""Most batches that wait here; what is beyond is lost, noticed, and asked for again."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Batches that are lost for good; what is known of the engine's cache is to be forgotten.

    Attributes:
        first: Number of the first of them.
        next: Number of the batch that comes next.
    """

    first: int
    next: int


class VllmStream:
    """The KV events of one data-parallel rank of an engine.

    Args:
        endpoint: Where it publishes, ``tcp://host:5557`` for example.
        replay: Where it answers with old batches, its ``replay_endpoint``; ``None`` for nowhere.
        topic: Topic that it publishes under.
        replay_timeout_s: Longest wait for the next old batch.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        replay: str | None = None,
        topic: str = "",
        replay_timeout_s: float = 5.0,
    ) -> None:
        self.endpoint = endpoint
        self._replay = replay
        self._topic = topic.encode()
        self._timeout_ms = int(replay_timeout_s * 1000)
        self._next: int | None = None
        self._time_s = 0.0

    async def batches(self) -> AsyncGenerator[VllmBatch | Missed, None]:
        """All batches from the oldest that is kept on, in order and each once.

        ZeroMQ connects by itself, now and after a break. What is no batch is logged and counts as
        missed. Leaving the stream, or cancelling who waits on it, closes its sockets.

        Raises:
            PlaneError: INVALID_ARGUMENT; the endpoint is none.
        """
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.setsockopt(zmq.RCVHWM, _HIGH_WATER)
            subscriber.setsockopt(zmq.SUBSCRIBE, self._topic)
            _connect(subscriber, self.endpoint)
            # What is older than this subscription.
            for got in await self._missing(context, 0, None):
                yield got
            while True:
                frames = await subscriber.recv_multipart()
                if len(frames) != 3 or len(frames[1]) != 8:
                    _log.warning(
                        "%s sent %d frames that are no KV events", self.endpoint, len(frames)
                    )
                    continue
                number = int.from_bytes(frames[1], "big")
                batch = _read(self.endpoint, frames[2])
                for got in await self._in_order(context, number, batch):
                    yield got

    async def _in_order(
        self, context: zmq.asyncio.Context, number: int, batch: VllmBatch | None
    ) -> list[VllmBatch | Missed]:
        """A batch as it comes in, after what is missing before it."""
        got: list[VllmBatch | Missed] = []
        if self._next is not None and number < self._next:
            if batch is None or batch.time_s <= self._time_s:
                # It was replayed while it was under way.
                return []
            # The engine started anew.
            got.append(Missed(0, number))
            self._next = 0
        if self._next is None or number > self._next:
            got += await self._missing(context, self._next or 0, number)
        if batch is None:
            got.append(Missed(number, number + 1))
        else:
            got.append(batch)
            self._time_s = max(self._time_s, batch.time_s)
        self._next = number + 1
        return got

    async def _missing(
        self, context: zmq.asyncio.Context, first: int, end: int | None
    ) -> list[VllmBatch | Missed]:
        """Batches from the replay socket; without an end, those that it has."""
        found: dict[int, bytes] = {}
        if self._replay is not None:
            try:
                found = await self._replayed(context, self._replay, first)
            except TimeoutError:
                _log.warning("%s does not answer with old KV events", self._replay)
        got: list[VllmBatch | Missed] = []
        at = first
        for number, payload in sorted(found.items()):
            if end is not None and number >= end:
                break
            batch = _read(self.endpoint, payload)
            if number > at or batch is None:
                got.append(Missed(at, number if batch is not None else number + 1))
            if batch is not None:
                got.append(batch)
                self._time_s = max(self._time_s, batch.time_s)
            at = number + 1
        if end is not None and at < end:
            got.append(Missed(at, end))
            at = end
        if end is not None or got:
            self._next = at
        return got

    async def _replayed(
        self, context: zmq.asyncio.Context, endpoint: str, first: int
    ) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        with context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.LINGER, 0)
            _connect(dealer, endpoint)
            # The empty frame is what a REQ socket would send before its message.
            await dealer.send(b"", zmq.SNDMORE)
            await dealer.send(first.to_bytes(8, "big"))
            while True:
                if not await dealer.poll(self._timeout_ms):
                    raise TimeoutError
                frames = await dealer.recv_multipart()
                if len(frames) < 2 or frames[-2] == _END or frames[-1] == _END:
                    return found
                found[int.from_bytes(frames[-2], "big")] = frames[-1]


def _connect(connected: zmq.asyncio.Socket, endpoint: str) -> None:
    try:
        connected.connect(endpoint)
    except zmq.ZMQError as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{endpoint!r} is no ZeroMQ endpoint ({error}); one looks like tcp://host:5557",
        ) from error


def _read(endpoint: str, payload: bytes) -> VllmBatch | None:
    try:
        return read_batch(payload)
    except PlaneError as error:
        _log.warning("%s: %s", endpoint, error.message)
        return None
