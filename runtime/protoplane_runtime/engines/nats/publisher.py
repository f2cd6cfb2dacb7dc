"""Durable publications on their way to the stream, any number of them at once."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError, Msg, status_of
from protoplane_runtime.engines.nats.stream import refused

MAX_WAITING = 65_536
"""Most publications of one process that may wait for their acknowledgement."""

_SEQUENCE = re.compile(rb'"seq":\s*(\d+)')
_SWEEP_S = 0.25
_NO_RESPONDERS = "503"
_UNAVAILABLE = 503
_UNDER_WAY = 10158


class Accepted(NamedTuple):
    """The stream's answer: where the event is, and whether it was there before."""

    sequence: int
    duplicate: bool


class _Pending:
    __slots__ = ("accepted", "data", "headers", "named", "reply", "sent", "subject", "until")

    def __init__(
        self,
        subject: str,
        data: bytes,
        named: str,
        headers: dict[str, str] | None,
        accepted: asyncio.Future[Accepted],
    ) -> None:
        self.subject = subject
        self.data = data
        self.named = named
        self.headers = headers
        self.accepted = accepted
        self.reply = ""
        self.sent = False
        self.until = 0.0


class Publisher:
    """Sends durable events and waits for JetStream's acknowledgements.

    What JetStream surely did not take (no leader just now) is sent again until the time is up. So
    is what it may have taken, when the connection was lost before the answer came, if it has a
    name by which JetStream would know it again; without one, the publication fails.

    Args:
        connection: The way to the server.
        stream: Name of the stream.
        timeout_s: Seconds after which a publication is UNAVAILABLE.
        accepted: Called for each that was taken, with its subject and where it is, before whoever
            published it goes on.
        unheard: Called where no stream takes what was sent.
        what: What is published, for errors.
        where: Where it goes, for errors.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        timeout_s: float,
        *,
        accepted: Callable[[str, Accepted], None],
        unheard: Callable[[], None],
        what: str = "event",
        where: str = "the event log",
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._timeout_s = timeout_s
        self._accepted = accepted
        self._unheard = unheard
        self._what = what
        self._where = where
        self._pending: dict[str, _Pending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._closed = False
        connection.lost.append(self._lost)

    async def publish(
        self, subject: str, data: bytes, named: str, headers: dict[str, str] | None = None
    ) -> Accepted:
        """Publish, and wait until it is in the stream; cancelling may leave it published.

        Args:
            subject: The subject.
            data: The message.
            named: What JetStream knows it by if it comes again; empty for nothing.
            headers: Its headers.

        Raises:
            PlaneError: UNAVAILABLE where there was no acknowledgement in time, RESOURCE_EXHAUSTED
                where the stream takes no more or too many wait, ABORTED where the headers expect
                another message before it.
        """
        if len(self._pending) >= MAX_WAITING:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"{MAX_WAITING} publications of this process wait already; wait for some of them",
            )
        pending = _Pending(subject, data, named, headers, self._loop.create_future())
        pending.until = time.monotonic() + self._timeout_s
        pending.reply = self._connection.expect(self._answered)
        self._pending[pending.reply] = pending
        self._send(pending)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        try:
            return await pending.accepted
        finally:
            self._forget(pending)

    async def settle(self) -> None:
        """Wait for what is on its way now, however it ends."""
        waiting = [pending.accepted for pending in self._pending.values()]
        if waiting:
            await asyncio.wait(waiting)

    def close(self) -> None:
        """Fail what still waits."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lost in self._connection.lost:
            self._connection.lost.remove(self._lost)
        for pending in tuple(self._pending.values()):
            self._fail(pending, PlaneError(Code.UNAVAILABLE, f"{self._where} is closed"))

    def _send(self, pending: _Pending) -> None:
        # What would be sent now would lie in the client's buffer; it goes when there is a server.
        pending.sent = self._connection.connected
        if pending.sent:
            self._connection.send(
                pending.subject, pending.data, pending.reply, pending.named, pending.headers
            )

    def _answered(self, message: Msg) -> None:
        pending = self._pending.get(message.subject)
        if pending is None or pending.accepted.done():
            return
        data = message.data
        found = _SEQUENCE.search(data)
        if found is not None and b'"error"' not in data:
            accepted = Accepted(int(found[1]), b'"duplicate"' in data)
            self._accepted(pending.subject, accepted)
            pending.accepted.set_result(accepted)
            return
        if status_of(message) == _NO_RESPONDERS or not data:
            pending.sent = False
            self._unheard()
            return
        try:
            answer: dict[str, Any] = json.loads(data).get("error", {})
        except ValueError:
            answer = {}
        error = JetStreamError(
            answer.get("err_code", 0), answer.get("code", 0), answer.get("description", "")
        )
        if error.code == _UNDER_WAY:
            # It came before, and most replicas do not have it yet.
            pending.sent = False
            return
        if error.status == _UNAVAILABLE and "maximum" not in error.description:
            plane = refused(error, self._stream)
            if plane.code is Code.UNAVAILABLE:
                # The sweep sends it again.
                pending.sent = False
                return
        self._fail(pending, refused(error, self._stream))

    def _lost(self) -> None:
        for pending in tuple(self._pending.values()):
            if pending.sent and not pending.named:
                self._fail(
                    pending,
                    PlaneError(
                        Code.UNAVAILABLE,
                        f"{self._connection.why}, and the event may be in the log or not; "
                        "publish it again with a Publication, which is appended once",
                    ),
                )
            pending.sent = False

    def _sweep(self) -> None:
        self._timer = None
        now = time.monotonic()
        connected = self._connection.connected
        for pending in tuple(self._pending.values()):
            if pending.accepted.done():
                continue
            if now >= pending.until:
                self._fail(
                    pending,
                    PlaneError(
                        Code.UNAVAILABLE,
                        f"the NATS stream {self._stream} did not take the {self._what} within "
                        f"{self._timeout_s:g} s"
                        + ("" if connected else f" ({self._connection.why})")
                        + ("; it may be in the log or not" if pending.sent else ""),
                    ),
                )
            elif not pending.sent and connected:
                self._send(pending)
        if self._pending and not self._closed:
            self._timer = self._loop.call_later(_SWEEP_S, self._sweep)

    def _fail(self, pending: _Pending, error: PlaneError) -> None:
        if not pending.accepted.done():
            pending.accepted.set_exception(error)

    def _forget(self, pending: _Pending) -> None:
        self._pending.pop(pending.reply, None)
        self._connection.forget(pending.reply)
