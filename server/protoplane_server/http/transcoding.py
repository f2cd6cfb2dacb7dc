"""Routes that a schema declares with ``google.api.http``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor

from protoplane_base import Code, HttpRoute, MethodSpec, PlaneError
from protoplane_server.http.asgi import Exchange
from protoplane_server.http.body import body_at_hand, read_body
from protoplane_server.http.messages import JSON, decode
from protoplane_server.http.parameters import descriptor_of, fill
from protoplane_server.http.rpc_events import serve_events
from protoplane_server.http.sse import wants_events
from protoplane_server.http.state import DoorState
from protoplane_server.http.templates import PathTemplate, parse_template
from protoplane_server.http.unary import call_unary


@dataclass(frozen=True, slots=True)
class Route:
    """One binding of one rpc.

    Attributes:
        method: The rpc.
        http: The binding.
        template: Its path.
        message: Descriptor of the request.
    """

    method: MethodSpec[Any, Any]
    http: HttpRoute
    template: PathTemplate
    message: Descriptor

    async def serve(self, exchange: Exchange, state: DoorState, path: dict[str, str]) -> None:
        """Serve a request whose path has matched.

        Args:
            exchange: The request.
            state: The door's state.
            path: Values that the path gives to fields.
        """
        if self.http.body == "*" and not path and not exchange.scope["query_string"]:
            body = body_at_hand(exchange, state)
            if body is None:
                body = await read_body(exchange, state)
            request = state.reading.read(self.method, body or b"{}")
        else:
            request = await self._request(exchange, state, path)
        if self.method.kind.server_streaming:
            await serve_events(exchange, state, self.method, request)
            return
        done = await call_unary(exchange, state, self.method, request, json=True)
        if done is not None:
            body, trailers = done
            await exchange.answer(200, [(b"content-type", JSON), *trailers], self._body(body))

    async def _request(self, exchange: Exchange, state: DoorState, path: dict[str, str]) -> Any:
        body = await read_body(exchange, state)
        query = parse_qsl(exchange.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        http = self.http
        document: dict[str, Any] = {}
        if http.body == "*":
            whole: object = _json(body or b"{}")
            if not isinstance(whole, dict):
                raise PlaneError(Code.INVALID_ARGUMENT, "the body is not a JSON object")
            document = cast("dict[str, Any]", whole)
            if query:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"the body holds every field, so {query[0][0]!r} cannot be in the query",
                )
        elif http.body:
            if body:
                field = self.message.fields_by_name[http.body]
                document[field.json_name] = _json(body)
        elif body:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{http.verb} {http.path} takes no body; use the query"
            )
        fill(document, self.message, query)
        fill(document, self.message, path.items())
        return decode(self.method, json.dumps(document).encode(), json=True)

    def _body(self, data: bytes) -> bytes:
        name = self.http.response_body
        if not name:
            return data
        field = descriptor_of(self.method.response).fields_by_name[name]
        absent: Any = [] if field.is_repeated else None
        part = json.loads(data).get(field.json_name, absent)
        return json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode()


class Routes:
    """All bindings of the services behind a door.

    A unary rpc and one that streams its answer may share a path: who accepts
    ``text/event-stream`` gets the stream.
    """

    def __init__(self) -> None:
        self._literal: dict[tuple[str, str], Route] = {}
        self._twins: dict[tuple[str, str], Route] = {}
        self._patterns: dict[str, list[Route]] = {}

    def add(self, method: MethodSpec[Any, Any]) -> None:
        """Add every binding of an rpc; of two that are the same, the first stands.

        Raises:
            ValueError: A path template is malformed.
        """
        if method.kind.client_streaming:
            return  # A body holds one message here; such an rpc is called in another way.
        for http in method.routes:
            template = parse_template(http.path)
            route = Route(method, http, template, descriptor_of(method.request))
            first = self._bound(http)
            if first is not None:
                if first.method.kind is not method.kind:
                    self._twins.setdefault((http.verb, http.path), route)
                continue
            if template.literal:
                self._literal[http.verb, http.path] = route
            else:
                routes = self._patterns.setdefault(http.verb, [])
                routes.append(route)
                routes.sort(key=lambda each: each.template.weight, reverse=True)

    def find(
        self, verb: str, raw_path: str, accept: bytes | None = None
    ) -> tuple[Route, dict[str, str]] | None:
        """The route of a path that is still percent-encoded, and what the path says.

        Args:
            verb: HTTP method.
            raw_path: The path.
            accept: The header ``accept``, which chooses between two rpcs of one path.
        """
        literal = self._literal.get((verb, raw_path))
        if literal is not None:
            return self._accepted(literal, accept), {}
        for route in self._patterns.get(verb, ()):
            values = route.template.match(raw_path)
            if values is not None:
                return self._accepted(route, accept), values
        return None

    def _accepted(self, route: Route, accept: bytes | None) -> Route:
        twin = self._twins.get((route.http.verb, route.http.path))
        if twin is None:
            return route
        streams = twin.method.kind.server_streaming
        return twin if wants_events(accept) == streams else route

    def _bound(self, http: HttpRoute) -> Route | None:
        literal = self._literal.get((http.verb, http.path))
        if literal is not None:
            return literal
        routes = self._patterns.get(http.verb, ())
        return next((route for route in routes if route.http.path == http.path), None)

    def straight(self) -> dict[tuple[str, bytes], Route]:
        """The routes of paths without variables that only one rpc has, by verb and path."""
        return {
            (verb, path.encode()): route
            for (verb, path), route in self._literal.items()
            if (verb, path) not in self._twins
        }

    def verbs(self, raw_path: str) -> list[str]:
        """The verbs that a path knows."""
        verbs = {verb for verb, path in self._literal if path == raw_path}
        for verb, routes in self._patterns.items():
            if any(route.template.match(raw_path) is not None for route in routes):
                verbs.add(verb)
        return sorted(verbs)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the body is not JSON: {error}") from None
