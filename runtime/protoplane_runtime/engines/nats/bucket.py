"""A KV bucket of JetStream: the newest value of each key, in the order in which they came.

It is laid out as https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-8.md
has it, so that ``nats kv`` reads it: a message for each key, and an empty one with the header
``KV-Operation`` for a key that was deleted. Those go after `MARKER_S`.
"""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError
from protoplane_runtime.engines.nats.consumer import Consumer, Stored, StreamLost
from protoplane_runtime.engines.nats.publisher import Accepted, Publisher
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.stream import (
    DUPLICATES_S,
    NO_MESSAGE,
    NOT_FOUND,
    JetStream,
    nanoseconds,
    parse_time,
    refused,
)
from protoplane_runtime.engines.nats.subjects import key_of, subject_of

MARKER_S = 600
"""Seconds for which it is remembered that a key was deleted."""

_NO_HEADERS: Mapping[str, str] = {}
_OVERHEAD_BYTES = 4096
_STEP_TIMEOUT_S = 5.0


class Item(NamedTuple):
    """The newest message of a key.

    Attributes:
        key: The key.
        value: Its value; empty where it was deleted.
        revision: Its place in the bucket.
        time_ns: When the server got it, in nanoseconds since 1970.
        headers: Its headers.
    """

    key: str
    value: bytes
    revision: int
    time_ns: int
    headers: Mapping[str, str]

    @property
    def deleted(self) -> bool:
        """Whether the key has no value any more."""
        return "KV-Operation" in self.headers or "Nats-Marker-Reason" in self.headers


class Contents(NamedTuple):
    """What a bucket held at one moment: its newest revision then, and the newest of each key."""

    revision: int
    items: Sequence[Item]


class Bucket(JetStream):
    """A bucket of an engine; get it ready with `open` or `made`.

    Revisions go on growing when it was lost and is made anew.

    Args:
        connection: The way to the server.
        settings: What the engine's URL says; its replicas are the bucket's, its limits are not.
        kind: Second part of its name.
        what: What it holds, for people.

    Attributes:
        subjects: Tokens before the key in the subjects to read.
    """

    def __init__(
        self, connection: Connection, settings: NatsSettings, kind: str, what: str
    ) -> None:
        bucket = f"{settings.stream}-{kind}"
        self.subjects = f"$KV.{bucket}"
        self._into = f"{connection.prefix}{self.subjects}"
        self._numbers = count(1)
        self._looking: asyncio.Task[None] | None = None
        config = {
            "subjects": [f"{self.subjects}.>"],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "max_msgs_per_subject": 1,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
            "duplicate_window": nanoseconds(DUPLICATES_S),
            "description": f"{what} of Protoplane",
        }
        wanted = {} if settings.replicas is None else {"num_replicas": settings.replicas}
        super().__init__(connection, f"KV_{bucket}", config, wanted)
        self._publisher = Publisher(
            connection,
            self.name,
            settings.publish_timeout_s,
            accepted=_accepted,
            unheard=self._unheard,
            what="change",
            where=f"the bucket {bucket}",
        )

    @classmethod
    async def on(cls, connection: Connection, settings: NatsSettings, kind: str, what: str) -> Self:
        """Get one ready over a connection that others use too; for the rest see the class.

        Raises:
            PlaneError: As `made`. Cancelling leaves nothing open.
        """
        self = cls(connection.share(), settings, kind, what)
        try:
            await self.made()
        except BaseException:
            await self.close()
            raise
        return self

    async def last(self, key: str) -> Item | None:
        """The newest message of a key, as the leader has it; ``None`` where there is none.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        subject = subject_of(self.subjects, key)
        try:
            found = await self._connection.ask(
                f"STREAM.MSG.GET.{self.name}", {"last_by_subj": subject}
            )
        except JetStreamError as error:
            if error.code == NOT_FOUND:
                await self.state()
            elif error.code != NO_MESSAGE:
                raise refused(error, self.name) from error
            return None
        message: dict[str, Any] = found["message"]
        return Item(
            key,
            base64.b64decode(message.get("data") or ""),
            message["seq"],
            parse_time(message["time"]),
            _headers(base64.b64decode(message.get("hdrs") or "")),
        )

    async def put(
        self,
        key: str,
        value: bytes,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        expected: int | None = None,
        ttl_s: float | None = None,
    ) -> int:
        """Give a key a value, and wait until the bucket has it; cancelling may leave it done.

        Args:
            key: The key.
            value: Its value.
            headers: What else is to know of it.
            expected: Revision of the newest message of the key, 0 where there must be none.
            ttl_s: Seconds after which the server forgets it, rounded up to whole ones.

        Returns:
            The revision.

        Raises:
            PlaneError: ABORTED where the key has another message than expected, RESOURCE_EXHAUSTED
                where it is too large or the server has no room, UNAVAILABLE where the server does
                not acknowledge in time.
        """
        most = self._connection.max_payload_bytes - _OVERHEAD_BYTES
        if len(value) > most:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"a value of {len(value)} bytes is too large, {most} are the most of this NATS "
                "server; put it into an object and store where that is, or raise max_payload",
            )
        sent = dict(headers)
        if expected is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        if ttl_s is not None:
            sent["Nats-TTL"] = f"{math.ceil(ttl_s)}s"
        # With a name it can be sent again, and is in the bucket once.
        named = f"{self._connection.origin.hex()}-{next(self._numbers)}"
        accepted = await self._publisher.publish(subject_of(self._into, key), value, named, sent)
        return accepted.sequence

    async def delete(
        self, key: str, *, expected: int | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> int:
        """Take the value of a key away; see `put`."""
        marker = {"KV-Operation": "DEL", **headers}
        return await self.put(key, b"", marker, expected=expected, ttl_s=MARKER_S)

    async def contents(self, subjects: tuple[str, ...]) -> Contents:
        """All that there is on some subjects, as of one moment.

        Args:
            subjects: The subjects, of which no two overlap.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        while True:
            if not self._connection.connected:
                raise self._connection.away()
            consumer = Consumer(self._connection, self, subjects, 1)
            try:
                return await self._read(consumer, subjects)
            except StreamLost:
                # What it holds now is in a stream of another epoch.
                continue
            except TimeoutError:
                raise PlaneError(
                    Code.UNAVAILABLE,
                    f"the NATS stream {self.name} does not answer within {_STEP_TIMEOUT_S:g} s",
                ) from None
            finally:
                consumer.close()

    def item(self, stored: Stored) -> Item:
        """A message of the bucket's stream as what it says of its key."""
        return Item(
            key_of(self.subjects, stored.subject),
            stored.data,
            stored.sequence,
            stored.time_ns,
            stored.headers or _NO_HEADERS,
        )

    async def close(self) -> None:
        """Fail what waits, and let go of the connection."""
        self._publisher.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._connection.close()

    async def _read(self, consumer: Consumer, subjects: tuple[str, ...]) -> Contents:
        # A message is there for as long as it is its key's newest. So what was read is all that
        # there was when nothing more followed. The replica that is read may lag behind the leader.
        found: dict[str, Item] = {}
        async with asyncio.timeout(_STEP_TIMEOUT_S):
            await consumer.begin()
        newest = max([await self._newest(subject) for subject in subjects])
        read = 0
        while consumer.pending or read < newest:
            async with asyncio.timeout(_STEP_TIMEOUT_S):
                taken = await consumer.take()
            if not taken:
                # What it waited for went by itself.
                break
            for stored in taken:
                item = self.item(stored)
                found[item.key] = item
            read = taken[-1].sequence
        return Contents(max(consumer.last, read), [found[key] for key in sorted(found)])

    async def _newest(self, subject: str) -> int:
        """Revision of the newest message of a subject, as the leader has it."""
        try:
            found = await self._connection.ask(
                f"STREAM.MSG.GET.{self.name}", {"last_by_subj": subject}
            )
        except JetStreamError as error:
            if error.code not in (NO_MESSAGE, NOT_FOUND):
                raise refused(error, self.name) from error
            return 0
        return int(found["message"]["seq"])

    async def _make(self) -> dict[str, Any]:
        # Nobody changes something every microsecond, so these are new numbers.
        self._config = {**self._config, "first_seq": time.time_ns() // 1_000}
        return await super()._make()

    def _unheard(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())

    async def _look_again(self) -> None:
        # The stream may be lost: then this makes it anew.
        try:
            await self.state()
        except PlaneError:
            return


def _accepted(_: str, __: Accepted) -> None:
    pass


def _headers(block: bytes) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found
