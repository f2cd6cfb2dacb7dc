"""What is known of a call: what its door saw, and what its handler is given."""

from __future__ import annotations

import asyncio
import re
import secrets
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from protoplane_base import Code, Message, Metadata, MethodSpec, PlaneError
from protoplane_runtime.engines.interface import EventLog
from protoplane_server.publishing import publish

if TYPE_CHECKING:
    from protoplane_server.dispatcher import Entry

REQUEST_ID = "x-request-id"
"""Metadata by which a caller names its call."""

REQUEST_IDS = re.compile(r"[!-~]{1,200}")
"""Request ids that are taken over from callers: those that headers and logs can carry on."""

_NAME = re.compile(r"[0-9a-z_.-]+")


# Not frozen, though nobody changes one: that would make it five times as dear to make, each call.
@dataclass(slots=True, eq=False)
class CallInfo:
    """A call as its door saw it.

    Attributes:
        door: ``grpc``, ``http`` or ``link``.
        peer: Who calls, for logs.
        metadata: What the caller sent along, names in lower case.
        timeout_s: Seconds that the call may take; ``None`` for any.
        request_id: What the door knows the call by; by default it is the metadata
            ``x-request-id``, else made up.
        identity: Who calls, as the door has verified it by a certificate or a token; empty where
            it has not. Callers of different identities never see each other's replies.
    """

    door: str
    peer: str
    metadata: Metadata
    timeout_s: float | None = None
    request_id: str = ""
    identity: str = ""


class CallContext:
    """The `protoplane_base.Context` of one call, made by `Dispatcher.begin`.

    Attributes:
        entry: The method as the dispatcher has it.
        info: What the door saw.
        deadline: When the call must be over, by ``time.monotonic``; ``None`` for never.
        trailers: What the handler wants sent after the answer; for the door.
        dropped: Whether the server gave the call up because it is shutting down.
        refused: Whether it did so before a handler saw the call.
        over: Whether the call has ended; what its handler left running has no deadline from it.
        late: Whether its deadline has passed while it was open.
        worker: The task to cancel then.
    """

    __slots__ = (
        "_events",
        "_request_id",
        "deadline",
        "dropped",
        "entry",
        "info",
        "late",
        "over",
        "refused",
        "trailers",
        "worker",
    )

    def __init__(
        self, entry: Entry, info: CallInfo, events: EventLog, max_timeout_s: float | None
    ) -> None:
        self.entry = entry
        self.info = info
        self.trailers: dict[str, str | bytes] = {}
        self.dropped = False
        self.refused = False
        self.over = False
        self.late = False
        self.worker: asyncio.Task[Any] | None = None
        self._events = events
        given = info.request_id
        self._request_id = given if given and REQUEST_IDS.fullmatch(given) else ""
        timeout_s = info.timeout_s
        if max_timeout_s is not None and (timeout_s is None or timeout_s > max_timeout_s):
            timeout_s = max_timeout_s
        self.deadline = None if timeout_s is None else monotonic() + timeout_s

    @property
    def request_id(self) -> str:
        """Identifier of the call: what the caller gave, else one made for it."""
        if not self._request_id:
            given = self.info.metadata.get(REQUEST_ID)
            taken = isinstance(given, str) and REQUEST_IDS.fullmatch(given)
            self._request_id = str(given) if taken else secrets.token_hex(16)
        return self._request_id

    @property
    def method(self) -> MethodSpec[Any, Any]:
        """The rpc that is being served."""
        return self.entry.method

    @property
    def metadata(self) -> Metadata:
        """What the caller sent along, names in lower case."""
        return self.info.metadata

    @property
    def peer(self) -> str:
        """Who calls, as far as the door can tell; for logs."""
        return self.info.peer

    @property
    def identity(self) -> str:
        """Who calls, as a token or a certificate proved it; empty where nothing did."""
        return self.info.identity

    def time_remaining_s(self) -> float | None:
        """Seconds until the deadline, never below zero; ``None`` where there is none."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def too_late(self) -> PlaneError:
        """The error of this call once its deadline has passed."""
        return PlaneError(
            Code.DEADLINE_EXCEEDED, f"{self.entry.path} took longer than its deadline"
        )

    def twin(self) -> CallContext:
        """Another context of the same call, with trailers and an end of its own."""
        twin = CallContext(self.entry, self.info, self._events, None)
        twin.deadline = self.deadline
        twin._request_id = self.request_id
        return twin

    async def publish(
        self,
        event: Message,
        *,
        key: str | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> str:
        """Publish an event; see `protoplane_base.Context.publish`."""
        return await publish(self._events, event, key, publisher, number)

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """Send metadata after the answer.

        Raises:
            ValueError: The name is not one that metadata can have, or the value does not fit it:
                bytes for names that end in ``-bin``, printable ASCII for all others.
        """
        lower = name.lower()
        if not _NAME.fullmatch(lower):
            raise ValueError(f"{name!r} is no name of metadata: letters, digits, '-', '_', '.'")
        if lower.startswith("grpc-"):
            raise ValueError(f"{name!r}: names that start with grpc- are the protocol's own")
        if lower.endswith("-bin"):
            if not isinstance(value, bytes):
                raise ValueError(f"{name!r} ends in -bin, so its value is bytes")
        elif not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError(f"the value of {name!r} must be a str of printable ASCII")
        self.trailers[lower] = value
