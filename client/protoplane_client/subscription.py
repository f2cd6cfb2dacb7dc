"""Following the events of a component, across lost connections and restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from protoplane_base import Code, PlaneError, message_type
from protoplane_client.backoff import Backoff
from protoplane_client.connect_protocol import error_of_response
from protoplane_client.http_session import HttpSession
from protoplane_client.sse import EventStreamError, EventStreamParser, ServerSentEvent
from protoplane_runtime.engines.interface import EventId, Gap, Since, Start

# Answers that another try may better; all others below 500 will stay as they are.
_TRY_AGAIN = frozenset({408, 425, 429})
_MAX_ERROR_BYTES = 1 << 20
# A connection that stood so long was a good one, even if no event came.
_STEADY_S = 5.0


@dataclass(frozen=True, slots=True)
class Received:
    """One event.

    Attributes:
        id: Its place in the log; what to give as ``after`` to continue behind it.
        key: Key that it is filed under.
        type: Full name of its message.
        json: The message as ProtoJSON.
        instance: Whose log it is in, where several are followed as one; else empty.
    """

    id: str
    key: str
    type: str
    json: str
    instance: str = ""

    @property
    def message(self) -> Any:
        """The message as its generated model, read leniently: unknown fields are dropped.

        Raises:
            UnknownTypeError: The package that declares it has not been imported.
            pydantic.ValidationError: The JSON is not of that type.
        """
        return message_type(self.type).model_validate_json(self.json, extra="ignore")


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Word that the stream was lost, for whoever wants to show it.

    Attributes:
        reason: What happened.
        delay_s: Seconds until the next try.
    """

    reason: str
    delay_s: float


async def subscribe(
    session: HttpSession | Callable[[], HttpSession],
    key_expression: str | Sequence[str],
    *,
    after: EventId | Start | Since | str | None = None,
    latest: bool = False,
    on_reconnect: Callable[[Reconnect], object] | None = None,
    give_up_s: float | None = None,
    idle_s: float = 60.0,
    instance: str = "",
) -> AsyncIterator[Received | Gap]:
    """Follow all events that key expressions match; see `Plane.subscribe`.

    The session may be something that says before each try which one to use; all of them lead to the
    same log.
    """
    keys = [key_expression] if isinstance(key_expression, str) else [*key_expression]
    if not keys:
        raise PlaneError(Code.INVALID_ARGUMENT, "a subscription needs at least one key expression")
    position = _position(after)
    backoff = Backoff()
    lost_at: float | None = None
    clock = asyncio.get_running_loop().time
    while True:
        parser = EventStreamParser(position)
        reason = "the server ended the stream"
        began = clock()
        try:
            asked = session() if callable(session) else session
            async for chunk in _stream(asked, keys, position, latest, idle_s):
                lost_at = None
                for event in parser.feed(chunk):
                    backoff.reset()
                    seen, position = position, event.id
                    item = _item(event, instance)
                    if isinstance(item, Gap) or not _is_repeat(event.id, seen):
                        yield item
                position = parser.last_event_id
        except PlaneError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            reason = error.message
        except EventStreamError as error:
            raise PlaneError(Code.RESOURCE_EXHAUSTED, str(error)) from error
        if parser.retry_ms is not None:
            backoff.first_s = min(parser.retry_ms / 1000, backoff.limit_s)
        if lost_at is None:
            lost_at = clock()
            if lost_at - began > _STEADY_S:
                backoff.reset()
        if give_up_s is not None and clock() - lost_at >= give_up_s:
            raise PlaneError(Code.UNAVAILABLE, f"gave up after {give_up_s:g} s: {reason}")
        delay_s = backoff.next_s()
        if on_reconnect is not None:
            on_reconnect(Reconnect(reason, delay_s))
        await asyncio.sleep(delay_s)


async def _stream(
    session: HttpSession, keys: Sequence[str], position: str, latest: bool, idle_s: float
) -> AsyncIterator[bytes]:
    session.require_open()
    headers = {
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "cache-control": "no-store",
    }
    params: dict[str, str | list[str]] = {}
    if len(keys) > 1:
        params["also"] = [*keys[1:]]
    if latest:
        params["latest"] = "true"
    if position:
        headers["last-event-id"] = position
    with session.errors():
        request = session.client.build_request(
            "GET",
            "/events/" + quote(keys[0], safe="/*"),
            headers=headers,
            params=params,
            # A server sends a keep-alive now and then; without one the connection is dead.
            timeout=httpx.Timeout(None, connect=10.0, read=idle_s),
        )
        response = await session.client.send(request, stream=True)
        try:
            await _check(session, response)
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()


async def _check(session: HttpSession, response: httpx.Response) -> None:
    status = response.status_code
    found = str(response.headers.get("content-type", "")).partition(";")[0].strip()
    if status == 200 and found == "text/event-stream":
        return
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_ERROR_BYTES:
            break
    if status != 200:
        error = error_of_response(status, bytes(body))
        if status >= 500 or status in _TRY_AGAIN:
            raise PlaneError(Code.UNAVAILABLE, error.message)
        raise error
    raise PlaneError(
        Code.UNIMPLEMENTED,
        f"{session.base_url} answered with {found or 'no content type'}, not with an event "
        "stream; does it serve events?",
    )


def _position(after: EventId | Start | Since | str | None) -> str:
    """Where to begin, as the server reads it; empty for now."""
    if after is None or after is Start.NOW:
        return ""
    if isinstance(after, Since):
        seconds, rest_ns = divmod(after.time_ns, 1_000_000_000)
        return f"{seconds}.{rest_ns:09d}"
    return after.value if isinstance(after, Start) else str(after)


def _item(event: ServerSentEvent, instance: str) -> Received | Gap:
    if event.type != "gap":
        return Received(event.id, event.extra.get("key", ""), event.type, event.data, instance)
    try:
        content = json.loads(event.data)
        oldest = content.get("oldest")
        return Gap(
            asked=EventId.parse(content["asked"]),
            oldest=None if oldest is None else EventId.parse(oldest),
            next=EventId.parse(content["next"]),
            ephemeral=content.get("ephemeral") is True,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlaneError(Code.INTERNAL, f"a gap event that makes no sense: {event.data}") from error


def _is_repeat(id_: str, seen: str) -> bool:
    try:
        new, old = EventId.parse(id_), EventId.parse(seen)
    except ValueError:
        return False
    return new.epoch == old.epoch and new.sequence <= old.sequence
