"""Rules of retention for the keys under a prefix, which JetStream's own limits do not know."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError
from protoplane_runtime.engines.nats.consumer import Consumer, StreamLost
from protoplane_runtime.engines.nats.ledger import Ledger, Rules
from protoplane_runtime.engines.nats.settings import NatsSettings
from protoplane_runtime.engines.nats.stream import Stream, refused
from protoplane_runtime.engines.nats.subjects import key_of, subject_of, subjects_of
from protoplane_runtime.engines.retention import Retention, floor_of, rule_of

_log = logging.getLogger("protoplane.engines")

SWEEP_S = 2.0
"""Seconds from one sweep to the next; nothing younger than that goes, so that readers that follow
the newest events get it before."""

_CLAIM_S = 15.0
_STEP = 16_384
_STEP_TIMEOUT_S = 10.0


class Gone(NamedTuple):
    """What is to go under a rule: the keys, the newest message, and where to go on."""

    keys: frozenset[str]
    floor: int
    swept: int
    more: bool


class Enforcement:
    """Carries the rules out, from all processes that use the stream: one of them at a time.

    Where messages were deleted is written down before they are, so no reader can miss them without
    a `Gap`.

    Args:
        connection: The way to the server.
        stream: The stream.
        settings: What the engine's URL says.
    """

    def __init__(self, connection: Connection, stream: Stream, settings: NatsSettings) -> None:
        self._connection = connection
        self._stream = stream
        self._ledger = Ledger(connection.share(), settings)
        self._task: asyncio.Task[None] | None = None

    async def begin(self, rules: Sequence[Retention] | None) -> None:
        """Give the rules, where there are some, and see to it that they are kept.

        Raises:
            PlaneError: UNAVAILABLE, or RESOURCE_EXHAUSTED where the server has no room.
        """
        if rules is not None:
            await self._ledger.give(rules)
        self._task = asyncio.create_task(self._run())

    async def floor(self, match: KeyMatcher, epoch: int) -> int:
        """Greatest number of a message that a rule deleted, and that expressions may have matched.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        found = await self._ledger.read()
        return 0 if found is None else floor_of(match, found[0].on(epoch).floors)

    async def enforce(self, *, at_once: bool = False) -> None:
        """Delete what the rules no longer cover, where that is due and nobody else does it.

        Args:
            at_once: Also where it is not due.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer, ABORTED where another process
                began to do it, or gave other rules.
        """
        found = await self._ledger.read()
        if found is None:
            return
        rules, revision = found
        now_ns = time.time_ns()
        # A clock that is far ahead of this one holds nobody up.
        if not at_once and now_ns < rules.due_ns <= now_ns + int(_CLAIM_S * 1e9):
            return
        state = await self._stream.state()
        rules = rules.on(state.epoch)
        bound = min(rules.bound, state.last)
        rules = replace(rules, bound=state.last, due_ns=_after(_CLAIM_S))
        revision = await self._ledger.write(rules, revision)
        for prefix in rules.rules:
            more = True
            while more:
                gone = await self._gone(rules, prefix, bound)
                more = gone.more
                if gone.keys:
                    floors = {**rules.floors, prefix: max(rules.floors[prefix], gone.floor)}
                    rules = replace(rules, floors=floors, due_ns=_after(_CLAIM_S))
                    revision = await self._ledger.write(rules, revision)
                    await self._delete(rules, prefix, gone)
                rules = replace(rules, swept={**rules.swept, prefix: gone.swept})
        await self._ledger.write(replace(rules, due_ns=_after(SWEEP_S)), revision)

    async def close(self) -> None:
        """End; what it was about to delete stays for others."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._ledger.close()

    async def _run(self) -> None:
        while True:
            try:
                await self.enforce()
            except (PlaneError, StreamLost, TimeoutError) as error:
                code = error.code if isinstance(error, PlaneError) else Code.UNAVAILABLE
                # ABORTED: another process is at it.
                if code is not Code.ABORTED:
                    level = logging.INFO if code is Code.UNAVAILABLE else logging.WARNING
                    _log.log(level, "the rules of retention in NATS wait: %s", error)
            # Not all processes at the same moment.
            await asyncio.sleep(SWEEP_S * random.uniform(0.75, 1.25))  # noqa: S311

    async def _gone(self, rules: Rules, prefix: str, bound: int) -> Gone:
        """What is to go, the oldest first; what came after ``bound`` stays."""
        rule, swept = rules.rules[prefix], rules.swept[prefix]
        until, excess = 0, 0
        if rule.max_age_s is not None:
            until = await self._stream.place_at(time.time_ns() - int(rule.max_age_s * 1e9))
        if rule.max_events is not None:
            excess = max(0, await self._count(rules, prefix, swept) - rule.max_events)
        limit = bound if excess else min(bound, until)
        if limit <= swept:
            return Gone(frozenset(), 0, swept, more=False)
        gone = await self._oldest(rules, prefix, limit, until, excess)
        # Somebody may have deleted some since they were counted.
        if (
            rule.max_events is not None
            and gone.floor > until
            and await self._count(rules, prefix, gone.floor) < rule.max_events
        ):
            return Gone(frozenset(), 0, swept, more=False)
        return gone

    async def _oldest(self, rules: Rules, prefix: str, limit: int, until: int, excess: int) -> Gone:
        """Look through what is there up to ``limit``; all up to ``until`` goes, and ``excess``."""
        swept = rules.swept[prefix]
        keys: set[str] = set()
        number = floor = 0
        subjects = _under(self._stream.durable, (prefix,))
        consumer = Consumer(self._connection, self._stream, subjects, swept + 1, headers_only=True)
        try:
            async with asyncio.timeout(_STEP_TIMEOUT_S):
                await consumer.begin()
                while consumer.pending:
                    for stored in await consumer.take():
                        sequence = stored.sequence
                        if sequence > limit:
                            return Gone(frozenset(keys), floor, sequence - 1, more=False)
                        key = key_of(self._stream.durable, stored.subject)
                        if rule_of(key, rules.rules).prefix == prefix:
                            if sequence > until and number >= excess:
                                return Gone(frozenset(keys), floor, sequence - 1, more=False)
                            number += 1
                            keys.add(key)
                            floor = sequence
                        swept = sequence
                        if number >= _STEP:
                            return Gone(frozenset(keys), floor, swept, more=True)
        finally:
            consumer.close()
        return Gone(frozenset(keys), floor, swept, more=False)

    async def _count(self, rules: Rules, prefix: str, place: int) -> int:
        """How many messages a rule covers after a place, or fewer where some come just now."""
        durable = self._stream.durable
        count = await self._stream.count_after(_under(durable, (prefix,)), place)
        nested = _under(durable, _nested(rules, prefix)) if len(rules.rules) > 1 else ()
        return count - (await self._stream.count_after(nested, place) if nested else 0)

    async def _delete(self, rules: Rules, prefix: str, gone: Gone) -> None:
        stream = self._stream
        for subject in _covering(stream.durable, prefix, _nested(rules, prefix), gone.keys):
            asked = {"filter": subject, "seq": gone.floor + 1}
            try:
                await self._connection.ask(f"STREAM.PURGE.{stream.name}", asked)
            except JetStreamError as error:
                raise refused(error, stream.name) from error


def _after(seconds: float) -> int:
    return time.time_ns() + int(seconds * 1e9)


def _nested(rules: Rules, prefix: str) -> tuple[str, ...]:
    """Prefixes of other rules whose keys begin as those of a rule."""
    inner = f"{prefix}/" if prefix else ""
    return tuple(each for each in rules.rules if each != prefix and each.startswith(inner))


def _under(durable: str, prefixes: Collection[str]) -> tuple[str, ...]:
    """The subjects of all keys under some prefixes."""
    return subjects_of(durable, [f"{each}/**" if each else "**" for each in prefixes])


def _covering(
    durable: str, prefix: str, nested: Collection[str], keys: Collection[str]
) -> Collection[str]:
    """Subjects that take in some keys of a rule, and no key of another."""
    if not nested:
        return _under(durable, (prefix,))
    above = {each.rsplit("/", n)[0] for each in nested for n in range(each.count("/") + 1)}
    depth = prefix.count("/") + 2 if prefix else 1
    found: set[str] = set()
    for key in keys:
        segments = key.split("/")
        for length in range(depth, len(segments) + 1):
            widest = "/".join(segments[:length])
            if widest not in above:
                found |= {subject_of(durable, widest), f"{subject_of(durable, widest)}.>"}
                break
        else:
            found.add(subject_of(durable, key))
    return found
