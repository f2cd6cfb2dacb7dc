"""The door's ASGI application: finds what serves a request, by path and then by content type.

There is no middleware and no request object in between: a call costs a look-up in a dict.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from protoplane_base import Code, MethodKind, MethodSpec, PlaneError
from protoplane_base.services import ServiceSpec
from protoplane_runtime.link.carriers.interface import Started
from protoplane_server.http.asgi import Exchange, Receive, Scope, Send
from protoplane_server.http.at_once import AtOnce
from protoplane_server.http.beside import Beside
from protoplane_server.http.body import close_unread
from protoplane_server.http.connect import get_unary, post_unary
from protoplane_server.http.connect_stream import ConnectStream
from protoplane_server.http.departure import Disconnected
from protoplane_server.http.events import PREFIX, EventDoor
from protoplane_server.http.faults import HttpError, answer_error, error_status
from protoplane_server.http.framed import serve_framed
from protoplane_server.http.grpcweb import GrpcWeb
from protoplane_server.http.link import LinkRoutes
from protoplane_server.http.mercure import PATH as MERCURE
from protoplane_server.http.mercure import MercureDoor
from protoplane_server.http.messages import JSON, PROTO
from protoplane_server.http.metadata import RequestMetadata
from protoplane_server.http.pages import pages
from protoplane_server.http.rpc_events import call_as_events
from protoplane_server.http.sse import wants_events
from protoplane_server.http.state import DoorState
from protoplane_server.http.transcoding import Routes

_log = logging.getLogger("protoplane.http")

_PLAIN = frozenset((JSON, PROTO))
_CONNECT_STREAM = frozenset((b"application/connect+json", b"application/connect+proto"))
_GRPC_WEB = frozenset(
    base + suffix
    for base in (b"application/grpc-web", b"application/grpc-web-text")
    for suffix in (b"", b"+proto", b"+json")
)

# Python finds a member of an enum slowly, and every call asks for this one.
_UNARY = MethodKind.UNARY


class Application:
    """ASGI application of a door.

    Args:
        state: The door's state.
        services: The services behind it.
        link: Takes on the links that come in here; ``None`` takes none.
        beside: What services answer beside their rpcs.

    Attributes:
        at_once: What is answered without a task, for a server that looks there first.
    """

    def __init__(
        self,
        state: DoorState,
        services: Sequence[ServiceSpec],
        link: Started | None = None,
        beside: Sequence[Beside] = (),
    ) -> None:
        self._state = state
        self._methods: dict[str, MethodSpec[Any, Any]] = {}
        self._routes = Routes()
        for service in services:
            for method in service.methods.values():
                self._methods[method.path] = method
                self._routes.add(method)
        self._pages = pages(state, services)
        self._events = EventDoor(state, services)
        self._mercure = MercureDoor(state)
        self._links = LinkRoutes(state, link) if link is not None else None
        self._beside = beside
        self._straight = straight = {
            (verb, path): route
            for (verb, path), route in self._routes.straight().items()
            if not self._comes_before(verb, path.decode())
        }
        self.at_once = AtOnce(
            state,
            [
                (path, route.method.path)
                for (verb, path), route in straight.items()
                if verb == "POST" and route.http.body == "*" and not route.http.response_body
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the server calls this."""
        if scope["type"] != "http":
            raise RuntimeError(f"the HTTP door does not serve {scope['type']!r}")
        exchange = Exchange(scope, receive, send)
        try:
            method = self._methods.get(scope["path"])
            if method is not None:
                await self._call(exchange, method)
            else:
                await self._other(exchange)
        except Disconnected:
            pass
        except PlaneError as error:
            await _fail(exchange, error)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001  (the last one on the way out)
            _log.exception("%s %s failed", scope["method"], scope["path"])
            await _fail(exchange, PlaneError(Code.INTERNAL, "the server failed; its log says why"))

    # Both that follow are awaited by the caller: a frame less for each call and each subscriber,
    # and those are many.

    def _call(
        self, exchange: Exchange, method: MethodSpec[Any, Any]
    ) -> Coroutine[None, None, None]:
        state = self._state
        headers = exchange.headers
        verb = exchange.scope["method"]
        content_type = headers.get(b"content-type", b"")
        kind = method.kind
        if content_type in _PLAIN and verb == "POST" and kind is _UNARY:
            return post_unary(exchange, state, method, content_type)
        if b";" in content_type or not content_type.islower():
            content_type = content_type.partition(b";")[0].strip().lower()
        plain = content_type in _PLAIN
        if (
            kind is MethodKind.SERVER_STREAM
            and wants_events(headers.get(b"accept"))
            and (verb == "GET" or (verb == "POST" and plain))
        ):
            return call_as_events(exchange, state, method, content_type)
        if verb == "GET" and kind is _UNARY:
            return get_unary(exchange, state, method)
        if verb != "POST":
            raise HttpError(
                405,
                Code.UNIMPLEMENTED,
                f"{method.path} is called with POST, not {verb}",
                [(b"allow", b"POST")],
            )
        if plain and kind is _UNARY:
            return post_unary(exchange, state, method, content_type)
        if content_type in _CONNECT_STREAM and kind is not MethodKind.UNARY:
            return serve_framed(exchange, state, method, ConnectStream(content_type))
        if content_type in _GRPC_WEB:
            return serve_framed(exchange, state, method, GrpcWeb(content_type))
        raise _unsupported(method, content_type)

    def _other(self, exchange: Exchange) -> Coroutine[None, None, None]:
        scope = exchange.scope
        path, verb = scope["path"], scope["method"]
        route = self._straight.get((verb, scope["raw_path"]))
        if route is not None:
            return route.serve(exchange, self._state, {})
        page = self._pages.get(path)
        if page is not None and verb in ("GET", "HEAD"):
            status, content_type, body = page()
            return exchange.answer(status, [(b"content-type", content_type)], body)
        if path.startswith(PREFIX):
            access = self._state.dispatcher.access
            if access is not None:
                access.caller(RequestMetadata(scope["headers"]))
            return self._events.serve(exchange)
        if path == MERCURE:
            return self._mercure.serve(exchange)
        if self._links is not None and self._links.serves(path):
            return self._links.serve(exchange)
        raw_path = scope["raw_path"].decode("latin-1")
        found = self._routes.find(verb, raw_path, exchange.headers.get(b"accept"))
        if found is not None:
            route, values = found
            return route.serve(exchange, self._state, values)
        for paths in self._beside:
            if paths.serves(raw_path):
                return paths.serve(exchange)
        raise self._not_found(path, verb, self._routes.verbs(raw_path))

    def _comes_before(self, verb: str, path: str) -> bool:
        """Whether something else than a route serves a path."""
        return (
            (path in self._pages and verb in ("GET", "HEAD"))
            or path.startswith(PREFIX)
            or path == MERCURE
            or (self._links is not None and self._links.serves(path))
        )

    def _not_found(self, path: str, verb: str, verbs: list[str]) -> PlaneError:
        if page_verbs := (["GET"] if path in self._pages else verbs):
            allowed = ", ".join(page_verbs)
            return HttpError(
                405,
                Code.UNIMPLEMENTED,
                f"{path} takes {allowed}, not {verb}",
                [(b"allow", allowed.encode())],
            )
        service = path[1:].partition("/")[0]
        prefix = f"/{service}/"
        siblings = sorted(known for known in self._methods if known.startswith(prefix))
        if siblings:
            names = ", ".join(known.rpartition("/")[2] for known in siblings)
            return HttpError(
                404, Code.UNIMPLEMENTED, f"{service} has no method of that name; it has {names}"
            )
        return HttpError(
            404,
            Code.UNIMPLEMENTED if verb == "POST" and "." in service else Code.NOT_FOUND,
            f"nothing is served at {path}; /docs shows what is",
        )


def _unsupported(method: MethodSpec[Any, Any], content_type: bytes) -> HttpError:
    named = content_type.decode("latin-1") or "no content type"
    if method.kind is MethodKind.UNARY:
        remedy = "send application/json or application/proto"
    else:
        remedy = "it streams: send application/connect+json or application/connect+proto"
        if method.kind is MethodKind.SERVER_STREAM:
            remedy += ", or application/json with the header 'accept: text/event-stream'"
    return HttpError(
        415,
        Code.INVALID_ARGUMENT,
        f"{method.path} does not take {named}; {remedy}",
        [(b"accept-post", b"application/json, application/proto")],
    )


async def _fail(exchange: Exchange, error: PlaneError) -> None:
    if exchange.started:
        # Too late to say so: the server closes the connection, and the client sees it cut.
        raise RuntimeError(f"the response broke off: {error}") from error
    if error_status(error) == 405 and exchange.scope["method"] == "HEAD":
        await exchange.answer(405, [], b"")
        return
    close = close_unread(exchange)
    if isinstance(error, HttpError) and (b"connection", b"close") in error.headers:
        close = []
    await answer_error(exchange, error, close)
