"""Reads the stream in order from a place on, whatever happens to servers meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from protoplane_base import PlaneError
from protoplane_runtime.engines.nats.connection import (
    Connection,
    JetStreamError,
    Msg,
    Subscription,
    status_of,
)
from protoplane_runtime.engines.nats.stream import JetStream, consumer_config, refused

_log = logging.getLogger("protoplane.engines")

_BATCH = 1024
_MAX_BYTES = 8 * 1024 * 1024
_EXPIRES_S = 4
_HEARTBEAT_S = 1
_PATIENCE_S = 3.0
_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 2.0
_BENIGN = ("Batch Completed", "Message Size Exceeds MaxBytes")


class Stored(NamedTuple):
    """A message of the stream."""

    sequence: int
    subject: str
    data: bytes
    time_ns: int
    headers: Mapping[str, str] | None = None


class StreamLost(Exception):  # noqa: N818  # it is news, not an error
    """The stream is another one than it was: its epoch changed."""


class Consumer:
    """All messages of some subjects, each once and in order.

    It asks the server for a batch once the one before was taken, so whoever is slow holds no more
    than that. The server's consumer is forgotten when a server goes, or is left behind when its
    leader changes; a new one then begins after the last message that came.

    Args:
        connection: The way to the server.
        stream: The stream.
        subjects: The subjects, of which no two overlap.
        start: Number of the first message to read.
        headers_only: Leave out what the messages hold.

    Attributes:
        last: Newest message of the whole stream when the server's consumer was made.
        pending: Messages that the server had for it then, or when it sent the one that came last.
    """

    def __init__(
        self,
        connection: Connection,
        stream: JetStream,
        subjects: tuple[str, ...],
        start: int,
        *,
        headers_only: bool = False,
    ) -> None:
        self.last = 0
        self.pending = 0
        self._connection = connection
        self._stream = stream
        self._epoch = stream.epoch
        self._subjects = subjects
        self._next = start
        self._headers_only = headers_only
        self._name = ""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._ready: list[Stored] = []
        self._expected = 1
        self._requested = False
        self._more = False
        self._idle = False
        self._broken = True
        self._losses = 0
        self._wakeup: asyncio.Future[None] | None = None
        self._closed = False
        connection.lost.append(self._wake)

    async def begin(self) -> None:
        """Have the server's consumer made; `take` does it too.

        Raises:
            StreamLost: As `take`.
            PlaneError: As `take`.
        """
        if self._broken or self._losses != self._connection.losses:
            await self._begin()

    async def take(self, *, whole: bool = False) -> list[Stored]:
        """All that is there, once there is something; nothing after some seconds without.

        Args:
            whole: Wait for a full batch, or for all that the server has.

        Raises:
            StreamLost: The stream was lost.
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        while not self._ready or (whole and self._more):
            await self.begin()
            if self._idle:
                self._idle = False
                break
            if not self._requested:
                self._request()
            self._wakeup = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._wakeup
            except TimeoutError:
                # Not even a heartbeat.
                self._broken = True
            finally:
                self._wakeup = None
        ready, self._ready = self._ready, []
        self._more = False
        return ready

    def close(self) -> None:
        """Give back what it holds; once more does nothing."""
        if not self._closed:
            self._closed = True
            self._connection.lost.remove(self._wake)
            self._end()

    async def _begin(self) -> None:
        delay_s = _FIRST_RETRY_S
        while True:
            self._end()
            try:
                await self._connection.wait_connected()
                self._losses = self._connection.losses
                await self._create()
            except PlaneError as error:
                await self._connection.wait_connected()
                _log.info("a reader of NATS waits: %s", error.message)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1))  # noqa: S311
                delay_s = min(2 * delay_s, _LAST_RETRY_S)
            else:
                return

    async def _create(self) -> None:
        state = await self._stream.state()
        # A stream that was put back from an older copy is not the same either.
        if state.epoch != self._epoch or state.last < self._next - 1:
            raise StreamLost
        connection = self._connection
        self._inbox = connection.inbox()
        self._name = f"r{self._inbox.rpartition('.')[2]}-{connection.origin.hex()}"
        config = consumer_config(self._name, self._subjects)
        config["deliver_policy"] = "by_start_sequence"
        config["opt_start_seq"] = max(self._next, 1)
        config["headers_only"] = self._headers_only
        self._expected = 1
        self._requested = False
        self._idle = False
        self._subscription = await connection.subscribe(self._inbox, self._incoming(self._inbox))
        try:
            found = await connection.ask(
                f"CONSUMER.CREATE.{self._stream.name}.{self._name}",
                {"stream_name": self._stream.name, "config": config, "action": "create"},
            )
        except JetStreamError as error:
            raise refused(error, self._stream.name) from error
        self.last = state.last
        self.pending = int(found["num_pending"])
        self._broken = False

    def _end(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._connection.unsubscribe(subscription)
        name, self._name = self._name, ""
        if name:
            self._connection.delete_consumer(self._stream.name, name)
        self._inbox = ""
        self._broken = True

    def _request(self) -> None:
        self._requested = True
        request = {
            "batch": _BATCH,
            "max_bytes": max(_MAX_BYTES, 2 * self._connection.max_payload_bytes),
            "expires": _EXPIRES_S * 10**9,
            "idle_heartbeat": _HEARTBEAT_S * 10**9,
        }
        self._connection.next_messages(
            self._stream.name, self._name, json.dumps(request).encode(), self._inbox
        )

    def _incoming(self, inbox: str) -> Callable[[Msg], None]:
        def take(message: Msg) -> None:
            # What an earlier consumer still sends is for nobody.
            if inbox == self._inbox and not self._broken:
                self._take(message)
                self._wake()

        return take

    def _take(self, message: Msg) -> None:
        reply = message.reply
        if not reply.startswith("$JS.ACK."):
            self._take_status(status_of(message), message)
            return
        # $JS.ACK[.domain.account].stream.consumer.delivered.sequence.number.time.pending[.more]
        tokens = reply.split(".")
        at = 5 if len(tokens) == 9 else 7
        if int(tokens[at + 1]) != self._expected:
            self._broken = True
            return
        self._expected += 1
        sequence = int(tokens[at])
        self.pending = int(tokens[at + 3])
        self._more = self.pending > 0
        if sequence < self._next:
            # A replica that lags behind begins where it is.
            return
        self._next = sequence + 1
        self._ready.append(
            Stored(sequence, message.subject, message.data, int(tokens[at + 2]), message.headers)
        )

    def _take_status(self, status: str, message: Msg) -> None:
        if status in ("404", "408"):
            self._requested = False
            self._idle = True
        elif status == "409":
            why = (message.headers or {}).get("Description", "")
            if why in _BENIGN:
                self._requested = self._more = False
            else:
                self._broken = True
        elif status != "100":
            self._broken = True

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)
