"""JetStream streams, and the one that holds the durable events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.nats.connection import Connection, JetStreamError
from protoplane_runtime.engines.nats.settings import NatsSettings

_log = logging.getLogger("protoplane.engines")

NOT_FOUND = 10059
NO_MESSAGE = 10037
_NAME_TAKEN = 10058
_REFUSED = (10023, 10028, 10047, 10077)
_WRONG_LAST = (10071, 10164)

DUPLICATES_S = 120.0
"""Seconds for which a stream knows a message again, where nobody says otherwise."""

_OPEN_TIMEOUT_S = 10.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 2.0


class Newest(NamedTuple):
    """The newest message of the stream: where it is, and its subject, "" where it is gone."""

    sequence: int
    subject: str


@dataclass(frozen=True, slots=True)
class State:
    """What a stream holds.

    Attributes:
        epoch: The microsecond in which it was made.
        first: Number of its oldest message; one more than ``last`` where it is empty.
        last: Number that the newest message has or had; 0 where there never was one.
    """

    epoch: int
    first: int
    last: int


class JetStream:
    """A stream of an engine, which is made where there is none; get it ready with `open`.

    Args:
        connection: The way to the server.
        name: Its name.
        config: Settings of a new one.
        wanted: Settings that one which is there gets too.

    Attributes:
        name: Its name.
        epoch: The microsecond in which it was made: another one after it was lost.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        config: Mapping[str, Any],
        wanted: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.epoch = 0
        self._connection = connection
        self._config = config
        self._wanted = wanted

    async def open(self) -> State:
        """Make the stream where there is none, and give it what the settings ask for.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer, FAILED_PRECONDITION where it
                refuses the settings.
        """
        try:
            try:
                found = await self._connection.ask(f"STREAM.INFO.{self.name}")
            except JetStreamError as error:
                if error.code != NOT_FOUND:
                    raise
                found = await self._make()
            wanted = {**found["config"], **self._wanted}
            if wanted != found["config"]:
                found = await self._connection.ask(f"STREAM.UPDATE.{self.name}", wanted)
        except JetStreamError as error:
            raise self._refused(error) from error
        return self._state(found)

    async def made(self) -> State:
        """As `open`, but wait for a leader: a cluster that has just started has none for a while.

        Raises:
            PlaneError: As `open`.
        """
        delay_s = _FIRST_RETRY_S
        problem = PlaneError(Code.UNAVAILABLE, "JetStream does not answer")
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                while True:
                    try:
                        return await self.open()
                    except PlaneError as error:
                        if error.code is not Code.UNAVAILABLE:
                            raise
                        problem = error
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _LAST_RETRY_S)
        except TimeoutError:
            raise problem from None

    async def state(self) -> State:
        """What the stream holds, as its leader says; it is made anew where it was lost.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        try:
            try:
                found = await self._connection.ask(f"STREAM.INFO.{self.name}")
            except JetStreamError as error:
                if error.code != NOT_FOUND:
                    raise
                _log.error("the NATS stream %s is lost; a new one begins", self.name)
                found = await self._make()
        except JetStreamError as error:
            raise self._refused(error) from error
        return self._state(found)

    async def _make(self) -> dict[str, Any]:
        config = {"name": self.name, "num_replicas": 1, **self._config, **self._wanted}
        # A window may be no longer than what is kept.
        age = config.get("max_age", 0)
        if age:
            config["duplicate_window"] = min(config["duplicate_window"], age)
        try:
            return await self._connection.ask(f"STREAM.CREATE.{self.name}", config)
        except JetStreamError as error:
            if error.code != _NAME_TAKEN:
                raise
            # Somebody else makes it just now, with other settings.
            return await self._connection.ask(f"STREAM.INFO.{self.name}")

    def _state(self, found: dict[str, Any]) -> State:
        state = found["state"]
        self.epoch = parse_time(found["created"]) // 1_000
        last = state["last_seq"]
        first = state["first_seq"] if state["messages"] else last + 1
        # Its numbers may begin anywhere.
        if not state["messages"] and last == found["config"].get("first_seq", 1) - 1:
            last = 0
        return State(self.epoch, first, last)

    def _refused(self, error: JetStreamError) -> PlaneError:
        return refused(error, self.name)


class Stream(JetStream):
    """The stream that holds the durable events.

    Attributes:
        durable: Tokens before the key in the subjects of durable events.
        passing: The same of ephemeral ones, which the stream does not hold.
    """

    def __init__(self, connection: Connection, settings: NatsSettings) -> None:
        self.durable = f"{settings.stream}.log"
        self.passing = f"{settings.stream}.now"
        asked = {
            "num_replicas": settings.replicas,
            "max_age": None if settings.max_age_s is None else nanoseconds(settings.max_age_s),
            "max_msgs": None if settings.max_events is None else settings.max_events or -1,
            "max_bytes": None if settings.max_bytes is None else settings.max_bytes or -1,
            "duplicate_window": (
                None if settings.duplicates_s is None else nanoseconds(settings.duplicates_s)
            ),
        }
        config = {
            "subjects": [f"{self.durable}.>"],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "duplicate_window": nanoseconds(DUPLICATES_S),
            "description": "Durable events of Protoplane",
        }
        wanted = {name: value for name, value in asked.items() if value is not None}
        super().__init__(connection, settings.stream, config, wanted)

    async def newest(self) -> Newest:
        """The newest message, as the leader says.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        try:
            found = await self._connection.ask(
                f"STREAM.MSG.GET.{self.name}", {"last_by_subj": f"{self.durable}.>"}
            )
        except JetStreamError as error:
            if error.code not in (NO_MESSAGE, NOT_FOUND):
                raise self._refused(error) from error
            return Newest((await self.state()).last, "")
        message = found["message"]
        return Newest(message["seq"], message["subject"])

    async def place_at(self, time_ns: int) -> int:
        """Number of the first message that was stored at some time or later, less one.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        seconds, rest = divmod(max(time_ns, 0), 10**9)
        try:
            moment = datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError):
            return (await self.state()).last
        name = f"t{self._connection.inbox().rpartition('.')[2]}-{self._connection.origin.hex()}"
        config = consumer_config(name, (f"{self.durable}.>",))
        config["deliver_policy"] = "by_start_time"
        config["opt_start_time"] = f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
        try:
            found = await self._connection.ask(
                f"CONSUMER.CREATE.{self.name}.{name}",
                {"stream_name": self.name, "config": config, "action": "create"},
            )
        except JetStreamError as error:
            raise self._refused(error) from error
        self._connection.delete_consumer(self.name, name)
        return int(found["delivered"]["stream_seq"])

    async def count_after(self, subjects: Sequence[str], place: int) -> int:
        """How many messages of some subjects come after a place.

        Args:
            subjects: The subjects, of which no two overlap.
            place: Number of the message before the first that counts.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        name = f"c{self._connection.inbox().rpartition('.')[2]}-{self._connection.origin.hex()}"
        config = consumer_config(name, tuple(subjects))
        config["deliver_policy"] = "by_start_sequence"
        config["opt_start_seq"] = place + 1
        try:
            found = await self._connection.ask(
                f"CONSUMER.CREATE.{self.name}.{name}",
                {"stream_name": self.name, "config": config, "action": "create"},
            )
        except JetStreamError as error:
            raise self._refused(error) from error
        self._connection.delete_consumer(self.name, name)
        return int(found["num_pending"])

    async def first_after(self, subjects: Sequence[str], place: int) -> int | None:
        """Number of the first message of some subjects after a place; ``None`` where there is none.

        Raises:
            PlaneError: UNAVAILABLE where JetStream does not answer.
        """
        found: list[int] = []
        for subject in subjects:
            asked = {"seq": place + 1, "next_by_subj": subject}
            try:
                answer = await self._connection.ask(f"STREAM.MSG.GET.{self.name}", asked)
            except JetStreamError as error:
                if error.code not in (NO_MESSAGE, NOT_FOUND):
                    raise self._refused(error) from error
            else:
                found.append(int(answer["message"]["seq"]))
        return min(found, default=None)


def refused(error: JetStreamError, stream: str) -> PlaneError:
    """The error that JetStream's stands for."""
    if error.code in _REFUSED or "maximum" in error.description:
        return PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"the NATS stream {stream} takes no more: {error.description}; keep less by max_age_s, "
            "max_events or max_bytes, or give JetStream more",
        )
    if error.code in _WRONG_LAST:
        return PlaneError(Code.ABORTED, f"the NATS stream {stream}: {error.description}")
    if error.status == 503:
        return PlaneError(Code.UNAVAILABLE, f"the NATS stream {stream}: {error.description}")
    return PlaneError(
        Code.FAILED_PRECONDITION,
        f"NATS refuses what is asked of the stream {stream}: {error}; change the engine's URL",
    )


def consumer_config(name: str, subjects: tuple[str, ...]) -> dict[str, Any]:
    """Settings of a consumer that only one reader uses, and that the server forgets by itself."""
    return {
        "name": name,
        "ack_policy": "none",
        "replay_policy": "instant",
        "filter_subjects": list(subjects),
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": 60_000_000_000,
    }


def nanoseconds(seconds: float) -> int:
    """Seconds as the whole nanoseconds that JetStream wants."""
    return int(seconds * 1_000_000_000)


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of a time as JetStream writes it."""
    # RFC 3339 with nanoseconds, which datetime does not read: 2026-11-20T17:21:21.045655534Z.
    day, _, rest = text.removesuffix("Z").partition(".")
    whole = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    return whole * 1_000_000_000 + int((rest + "000000000")[:9])
