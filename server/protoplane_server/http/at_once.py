"""Unary calls that are answered in the turn of the event loop in which they came.

A choice that waits for nothing can take less than the task that would make it. So a service may
answer some of its rpcs by a plain function, from JSON to JSON; all else about such a call is as
ever: admission, deadline, context, errors, metrics, and the ordinary way for what is unusual.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from protoplane_base import MethodSpec, PlaneError
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.errors import message_too_large
from protoplane_server.http.asgi import Headers, Response, Scope, peer_of
from protoplane_server.http.connect import TRAILER, reply
from protoplane_server.http.faults import error_answer
from protoplane_server.http.messages import JSON
from protoplane_server.http.metadata import RequestMetadata, connect_timeout_s, metadata_headers
from protoplane_server.http.state import DoorState, request_id_of

JsonAnswer: TypeAlias = Callable[[bytes, CallContext], bytes | None]
"""Answers a call, from ProtoJSON to ProtoJSON, and waits for nothing.

``None`` leaves a call to the ordinary way, and with it all faults of what was sent: it must have
changed nothing then. What it raises is treated as what a handler raises.
"""


@runtime_checkable
class BringsAnswers(Protocol):
    """A service that answers some of its rpcs at once."""

    def json_answers(self) -> Mapping[str, JsonAnswer]:
        """What answers them, by the names that the schema gives to the rpcs."""
        ...


class AtOnce:
    """The rpcs of a door that are answered at once.

    Args:
        state: The door's state.
        routes: Paths without variables whose POST takes the whole message as its body and answers
            with the whole message, and the paths of the rpcs that they are bound to.
    """

    def __init__(self, state: DoorState, routes: Collection[tuple[bytes, str]]) -> None:
        self._state = state
        # By path: the rpc, what answers it, and whether the path is Connect's.
        self._ways: dict[bytes, tuple[MethodSpec[Any, Any], JsonAnswer, bool]] = {}
        for service in state.dispatcher.services:
            if not isinstance(service, BringsAnswers):
                continue
            for name, answer in service.json_answers().items():
                method = service.spec.methods[name]
                self._ways[method.path.encode()] = (method, answer, True)
                for path, bound in routes:
                    if bound == method.path:
                        self._ways[path] = (method, answer, False)

    def ready(self, scope: Scope) -> Ready | None:
        """What answers requests with one head; ``None`` where that is left to the ordinary way.

        Args:
            scope: What ASGI says of the head.
        """
        way = self._ways.get(scope["raw_path"])
        if way is None or scope["method"] != "POST" or scope["query_string"]:
            return None
        method, answer, connect = way
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"content-encoding" in headers:
            return None
        if connect and (
            headers.get(b"content-type") != JSON
            or headers.get(b"connect-protocol-version", b"1") != b"1"
        ):
            return None
        return Ready(self._state, method, answer, scope, headers, connect=connect)


class Ready:
    """Answers requests with one head.

    Args:
        state: The door's state.
        method: The rpc.
        answer: What answers it.
        scope: What ASGI says of the head.
        headers: Its headers by lower-case name.
        connect: Whether the path is Connect's.
    """

    __slots__ = (
        "_answer",
        "_connect",
        "_headers",
        "_metadata",
        "_method",
        "_peer",
        "_request_id",
        "_state",
    )

    def __init__(
        self,
        state: DoorState,
        method: MethodSpec[Any, Any],
        answer: JsonAnswer,
        scope: Scope,
        headers: dict[bytes, bytes],
        *,
        connect: bool,
    ) -> None:
        self._state = state
        self._method = method
        self._answer = answer
        self._headers = headers
        self._connect = connect
        self._peer = peer_of(scope)
        self._metadata = RequestMetadata(tuple(scope["headers"]), headers)
        self._request_id = request_id_of(headers)

    def answer(self, body: bytes) -> Response | None:
        """Answer one request.

        Args:
            body: All of its body.

        Returns:
            The response; ``None`` leaves it to the ordinary way: nothing has happened then.
        """
        state, headers = self._state, self._headers
        if len(body) > state.max_bytes:
            return None
        dispatcher = state.dispatcher
        context: CallContext | None = None
        try:
            timeout_s = connect_timeout_s(headers)
            info = CallInfo("http", self._peer, self._metadata, timeout_s, self._request_id)
            context = dispatcher.begin(self._method, info)
            answer = dispatcher.at_once(context, self._answer, body)
            if answer is None:
                return None
            if len(answer) > state.max_bytes:
                raise message_too_large(len(answer), state.max_bytes, "response")
        except PlaneError as error:
            return error_answer(error, self._trailers(context))
        trailers = self._trailers(context)
        if self._connect:
            return reply(headers, JSON, answer, trailers)
        return 200, [(b"content-type", JSON), *trailers], answer

    def _trailers(self, context: CallContext | None) -> Headers:
        if context is None or not context.trailers:
            return []
        return metadata_headers(context.trailers, TRAILER if self._connect else "")
