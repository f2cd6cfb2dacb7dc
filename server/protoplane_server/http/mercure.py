"""The event plane as a Mercure hub: subscribe and publish at ``/.well-known/mercure``.

Topics are keys (see `mercure_topics`), so what components publish is there too, and an update that
is published here is an event for all others. Updates are durable. What there is not: the claims of
JSON Web Tokens (tokens are those of the other doors, and open all topics), the API of active
subscriptions and its events, URL patterns, and ids that a publisher chooses, which the hub may
replace.

Source: https://mercure.rocks/spec; topic selectors are those of draft-dunglas-mercure-07, which
clients have, and ``match`` is that of its successor.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import cast
from urllib.parse import parse_qs, urljoin, urlsplit

from protoplane.v1 import MercureUpdate
from protoplane_base import Code, DecodeError, PlaneError
from protoplane_runtime.engines.interface import Event, EventId, Gap, Start
from protoplane_server.access import Access
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.body import read_body
from protoplane_server.http.event_encoding import GAP, gap_document, resume_id
from protoplane_server.http.event_feed import feed
from protoplane_server.http.faults import HttpError
from protoplane_server.http.mercure_topics import (
    MAX_SELECTORS,
    Selectors,
    key_of,
    selectors,
    topic_of,
)
from protoplane_server.http.sse import sse_text
from protoplane_server.http.state import DoorState

PATH = "/.well-known/mercure"

_UPDATE = MercureUpdate.__pb__.DESCRIPTOR.full_name
_FORM = b"application/x-www-form-urlencoded"
_EARLIEST = "earliest"
_MAX_FIELDS = 200
_GAP_WAIT_S = 0.25
"""How long a reader that resumes waits for word that its place is gone, before it is answered."""


class MercureDoor:
    """Serves the log of one dispatcher as a hub.

    Args:
        state: The door's state.
    """

    def __init__(self, state: DoorState) -> None:
        self._state = state

    async def serve(self, exchange: Exchange) -> None:
        """Serve a request for `PATH`."""
        verb = exchange.scope["method"]
        if verb not in ("GET", "POST"):
            raise HttpError(
                405,
                Code.UNIMPLEMENTED,
                "updates are read with GET and published with POST",
                [(b"allow", b"GET, POST")],
            )
        query = parse_qs(exchange.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        access = self._state.dispatcher.access
        if access is not None:
            _authorize(access, exchange, query)
        if verb == "GET":
            await self._subscribe(exchange, query)
        else:
            await self._publish(exchange)

    async def _subscribe(self, exchange: Exchange, query: dict[str, list[str]]) -> None:
        chosen = selectors(_topics(query))
        asked = _last_event_id(exchange, query)
        log = self._state.dispatcher.events
        last = log.last
        start, opening = _start(asked)
        reader = cast(
            "AsyncGenerator[Sequence[Event | Gap], None]",
            log.read(chosen.expressions, after=last if start is Start.NOW else start),
        )
        # The head of the answer tells of a gap, so it waits for the log to say so.
        ahead = asyncio.ensure_future(anext(reader))
        try:
            known = opening if isinstance(start, EventId) else _EARLIEST
            if isinstance(start, EventId):
                await asyncio.wait([ahead], timeout=_GAP_WAIT_S)
                if _is_gap(ahead):
                    known = _EARLIEST
            await feed(
                exchange,
                self._state,
                _from(ahead, reader),
                _Encode(chosen),
                opening_id=opening or f"#{last}",
                headers=[(b"last-event-id", known.encode())] if asked else [],
            )
        finally:
            if not ahead.done():
                ahead.cancel()
                await asyncio.wait([ahead])
            if not ahead.cancelled():
                ahead.exception()  # Seen, also where nobody came to read it.
            await reader.aclose()

    async def _publish(self, exchange: Exchange) -> None:
        content_type = exchange.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if content_type != _FORM:
            raise HttpError(
                415,
                Code.INVALID_ARGUMENT,
                f"updates are published as {_FORM.decode()}, not as "
                f"{content_type.decode('latin-1') or 'nothing'}",
            )
        update = _update(await read_body(exchange, self._state))
        if update.private and self._state.dispatcher.access is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "the update is private, and this component lets everybody read; start it with "
                "tokens, or publish without 'private'",
            )
        data, text = update.to_bytes(), update.model_dump_json()
        ids = [
            await self._state.dispatcher.events.publish(key, _UPDATE, data, text, durable=True)
            for key in dict.fromkeys(map(key_of, update.topics))
        ]
        await exchange.answer(
            200, [(b"content-type", b"text/plain; charset=utf-8")], f"#{ids[0]}".encode()
        )


@dataclass(frozen=True, slots=True)
class _Encode:
    """Encodes what some selectors select; equal for equal selectors, so that bytes are shared."""

    selectors: Selectors

    def __call__(self, batch: Sequence[Event | Gap]) -> list[str]:
        return list(map(self._encode, batch))

    def _encode(self, item: Event | Gap) -> str:
        if isinstance(item, Gap):
            document = json.dumps(gap_document(item))
            return sse_text(document, event=GAP, id_=f"#{resume_id(item)}")
        update = _update_of(item)
        topics = list(update.topics) if update is not None else [topic_of(item.key)]
        selected = next(filter(self.selectors.select, topics), None)
        # It is filed under each of its topics, and a subscriber wants it once.
        if selected is None or key_of(selected) != item.key:
            return ""
        if update is None:
            return sse_text(item.json, event=item.type, id_=f"#{item.id}")
        retry = "" if update.retry_ms is None else f"retry: {update.retry_ms}\n"
        return retry + sse_text(update.data, event=update.type, id_=f"#{item.id}")


def _update_of(event: Event) -> MercureUpdate | None:
    if event.type != _UPDATE:
        return None
    try:
        update = MercureUpdate.from_bytes(event.data)
    except DecodeError:
        return None
    return update if update.topics else None


async def _from(
    ahead: asyncio.Future[Sequence[Event | Gap]],
    reader: AsyncGenerator[Sequence[Event | Gap], None],
) -> AsyncGenerator[Sequence[Event | Gap], None]:
    try:
        yield await ahead
    except StopAsyncIteration:
        return
    async for batch in reader:
        yield batch


def _is_gap(ahead: asyncio.Future[Sequence[Event | Gap]]) -> bool:
    if not ahead.done() or ahead.cancelled() or ahead.exception() is not None:
        return False
    batch = ahead.result()
    return bool(batch) and isinstance(batch[0], Gap)


def _topics(query: dict[str, list[str]]) -> list[str]:
    for name in query:
        if name.lower().startswith("match") and name not in ("match", "matchExact"):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{name[:80]} is not known here; say match=… for one topic, or topic=… with a URI "
                "template",
            )
    return [*query.get("topic", ()), *query.get("match", ()), *query.get("matchExact", ())]


def _last_event_id(exchange: Exchange, query: dict[str, list[str]]) -> str:
    text = exchange.headers.get(b"last-event-id", b"").decode("latin-1")
    for name in ("lastEventID", "lastEventId", "Last-Event-ID"):
        text = text or query.get(name, [""])[-1]
    return text


def _start(asked: str) -> tuple[EventId | Start, str]:
    """Where to begin, and the id to open with; empty where that is the newest event's."""
    if asked == _EARLIEST:
        return Start.EARLIEST, _EARLIEST
    try:
        event_id = EventId.parse(asked.removeprefix("#"))
    except ValueError:
        # An id that this hub never gave: the answer's head says that something may be missing.
        return Start.NOW, ""
    return event_id, f"#{event_id}"


def _authorize(access: Access, exchange: Exchange, query: dict[str, list[str]]) -> None:
    """Make sure that a token is known: of the header, else of the query, else of a cookie.

    A cookie serves readers only, since a browser sends it whoever made it ask.
    """
    given = exchange.headers.get(b"authorization")
    token = ""
    if given is not None:
        scheme, _, text = given.decode("latin-1").partition(" ")
        token = text.strip() if scheme.lower() == "bearer" else ""
    else:
        for name in ("access_token", "authorization"):
            token = token or query.get(name, [""])[-1]
        if exchange.scope["method"] == "GET":
            token = token or _cookie(exchange)
    try:
        access.identity(token)
    except PlaneError as error:
        challenge = b'Bearer error="invalid_token"' if token else b"Bearer"
        raise HttpError(
            401, error.code, error.message, [(b"www-authenticate", challenge)]
        ) from None


def _cookie(exchange: Exchange) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(exchange.headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return ""
    for name in ("mercureAccessToken", "mercureAuthorization"):
        if name in cookies:
            return cookies[name].value
    return ""


def _update(body: bytes) -> MercureUpdate:
    """Read the form of an update.

    Raises:
        PlaneError: A field is missing or has a value that it may not have.
    """
    try:
        form = parse_qs(
            body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the form cannot be read: {error}") from None
    topics = [*dict.fromkeys(form.get("topic", ()))]
    if not 1 <= len(topics) <= MAX_SELECTORS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"an update has 1 to {MAX_SELECTORS} topics, not {len(topics)}; send the field 'topic'",
        )
    for topic in topics:
        key_of(topic)
        _refuse_reserved(topic)
    id_, type_, retry = (form.get(name, [""])[-1] for name in ("id", "type", "retry"))
    if id_.startswith("#") or any(char in id_ for char in "\r\n\0"):
        raise PlaneError(
            Code.INVALID_ARGUMENT, "'id' may not start with '#', nor hold line ends or NUL"
        )
    if "\r" in type_ or "\n" in type_:
        raise PlaneError(Code.INVALID_ARGUMENT, "'type' may not hold line ends")
    if "retry" in form and not (retry.isascii() and retry.isdigit() and len(retry) <= 18):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"retry={retry[:80]} is no number of milliseconds; digits only"
        )
    return MercureUpdate(
        topics=topics,
        data=form.get("data", [""])[-1],
        id=id_,
        type=type_,
        retry_ms=int(retry) if retry else None,
        private="private" in form,
    )


def _refuse_reserved(topic: str) -> None:
    try:
        path = urlsplit(urljoin(f"http://hub{PATH}", topic)).path
    except ValueError:
        return
    if path == PATH or path.startswith(f"{PATH}/"):
        raise HttpError(
            403,
            Code.PERMISSION_DENIED,
            f"topics under {PATH} are the hub's own; publish under another",
        )
