"""What the stream of the durable events keeps, and how some of it is deleted before its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from protoplane_runtime.engines.interface import EventId, KeyStats, LogStats, Since
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError
from protoplane_runtime.engines.nats.payload import EPHEMERAL_BITS
from protoplane_runtime.engines.nats.stream import (
    NO_MESSAGE,
    NOT_FOUND,
    Stream,
    parse_time,
    refused,
)
from protoplane_runtime.engines.nats.subjects import key_of, subject_of, subjects_of


class Administration:
    """Asks JetStream about the stream as a whole.

    Args:
        connection: The way to the server.
        stream: The stream.
    """

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream

    async def stats(self, match: KeyMatcher, after: EventId | None) -> LogStats:
        """What is kept under some key expressions; see `EventLog.stats`.

        JetStream counts by subject, not by bytes; after an id it counts no keys either.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        stream = self._stream
        await stream.state()
        subjects, others = await self._subjects(match)
        filters = self._filters(match, subjects, others=others)
        ends = [await self._message({"last_by_subj": each}) for each in filters]
        starts = [await self._message({"seq": 1, "next_by_subj": each}) for each in filters]
        found = [each for each in starts if each is not None]
        last = [each for each in ends if each is not None]
        if not (found and last):
            return LogStats(0, 0, None, None, None, None, ())
        oldest = min(found, key=lambda each: each["seq"])
        newest = max(last, key=lambda each: each["seq"])
        keys = [KeyStats(key, subjects[key], None) for key in sorted(subjects)]
        count = sum(subjects.values())
        if after is not None and after.epoch == stream.epoch:
            count, keys = await stream.count_after(filters, after.sequence >> EPHEMERAL_BITS), []
            if not count:
                return LogStats(0, 0, None, None, None, None, ())
        return LogStats(
            count,
            None,
            EventId(stream.epoch, oldest["seq"] << EPHEMERAL_BITS),
            EventId(stream.epoch, newest["seq"] << EPHEMERAL_BITS),
            parse_time(oldest["time"]),
            parse_time(newest["time"]),
            keys,
        )

    async def purge(self, match: KeyMatcher, before: EventId | Since | None) -> int:
        """Delete what some key expressions match; see `EventLog.purge`.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        stream = self._stream
        end = (await stream.state()).last + 1
        if isinstance(before, Since):
            end = min(end, await stream.place_at(before.time_ns) + 1)
        elif before is not None and before.epoch <= stream.epoch:
            # One that lies among ephemeral events comes after the durable one before them.
            place = -(-before.sequence >> EPHEMERAL_BITS)
            end = min(end, place) if before.epoch == stream.epoch else 0
        if end < 1:
            return 0
        count = 0
        subjects, others = await self._subjects(match)
        for each in self._filters(match, subjects, others=others):
            asked = {"filter": each, "seq": end}
            count += int((await self._ask(f"STREAM.PURGE.{stream.name}", asked))["purged"])
        return count

    def _filters(self, match: KeyMatcher, keys: Iterable[str], *, others: bool) -> Sequence[str]:
        durable, expressions = self._stream.durable, match.expressions
        simple = len(expressions) == 1 and "**" not in expressions[0].removesuffix("**")
        if simple and not others:
            return subjects_of(durable, expressions)
        # NATS has no wildcards that take in just these.
        return [subject_of(durable, key) for key in keys]

    async def _subjects(self, match: KeyMatcher) -> tuple[dict[str, int], bool]:
        """How many events there are of each key, and whether NATS takes others for these, too."""
        durable = self._stream.durable
        found: dict[str, int] = {}
        others = False
        for each in subjects_of(durable, match.expressions):
            offset = 0
            while True:
                asked = {"subjects_filter": each, "offset": offset}
                answer = await self._ask(f"STREAM.INFO.{self._stream.name}", asked)
                page: dict[str, int] = answer["state"].get("subjects") or {}
                for subject, count in page.items():
                    key = key_of(durable, subject)
                    if match.matches(key):
                        found[key] = count
                    else:
                        others = True
                offset += len(page)
                if not page or offset >= answer.get("total", 0):
                    break
        return found, others

    async def _message(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        try:
            found = await self._connection.ask(f"STREAM.MSG.GET.{self._stream.name}", asked)
        except JetStreamError as error:
            if error.code in (NO_MESSAGE, NOT_FOUND):
                return None
            raise refused(error, self._stream.name) from error
        message: dict[str, Any] = found["message"]
        return message

    async def _ask(self, what: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._connection.ask(what, asked)
        except JetStreamError as error:
            raise refused(error, self._stream.name) from error
