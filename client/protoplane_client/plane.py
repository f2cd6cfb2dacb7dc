"""The way to components: `connect` gives a plane, which carries calls and events."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from protoplane_base import CallOptions, Client, Code, Message, MethodSpec, PlaneError
from protoplane_client.connect_protocol import error_of_response
from protoplane_client.grpc_channel import DEFAULT_MAX_MESSAGE_BYTES, GrpcChannel
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_client.subscription import Received, Reconnect, subscribe
from protoplane_client.targets import parse_target
from protoplane_client.tls import Tls
from protoplane_runtime.engines.interface import EventId, Gap, Start

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")
_C = TypeVar("_C", bound=Client)


class Plane:
    """A connection to a component: a `Channel` for generated clients, and its events.

    Made by `connect`. Nothing is sent before the first call. Leaving the block cancels what is
    still open.
    """

    def __init__(
        self, target: str, calls: GrpcChannel | HttpChannel, session: HttpSession | None
    ) -> None:
        self.target = target
        self._calls = calls
        self._session = session

    def client(self, client: type[_C]) -> _C:
        """A generated client on this plane; the same as ``client(plane)``."""
        return client(self)

    async def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        """One message there, one back; see `protoplane_base.Channel`."""
        return await self._calls.unary(method, request, options)

    def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back; see `protoplane_base.Channel`."""
        return self._calls.server_stream(method, request, options)

    async def client_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> _Res:
        """Any number there, one back; see `protoplane_base.Channel`."""
        return await self._calls.client_stream(method, requests, options)

    def bidi_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> AsyncIterator[_Res]:
        """Any number there, any number back; over HTTP all requests leave first."""
        return self._calls.bidi_stream(method, requests, options)

    async def publish(self, key: str, message: Message) -> EventId:
        """Publish an event through the component's HTTP door.

        Args:
            key: Key to file it under.
            message: The event.

        Returns:
            Its id.

        Raises:
            PlaneError: The component did not take it, or the plane has no HTTP door.
        """
        return await self.publish_json(
            key,
            message.to_pb().DESCRIPTOR.full_name,
            message.model_dump_json(),
        )

    async def publish_json(self, key: str, type_: str, json: str) -> EventId:
        """Publish an event whose message is given as ProtoJSON; otherwise as `publish`."""
        session = self._events("publish")
        with session.errors():
            response = await session.client.post(
                "/events/" + quote(key, safe="/"),
                params={"type": type_},
                content=json.encode(),
                headers={"content-type": "application/json"},
            )
        if response.status_code not in (200, 201, 202):
            raise error_of_response(response.status_code, response.content)
        try:
            return EventId.parse(response.json()["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise PlaneError(
                Code.INTERNAL, f"{session.base_url} did not say the event's id"
            ) from error

    def subscribe(
        self,
        key_expression: str,
        *,
        after: EventId | Start | str | None = None,
        on_reconnect: Callable[[Reconnect], object] | None = None,
        give_up_s: float | None = None,
        idle_s: float = 60.0,
    ) -> AsyncIterator[Received | Gap]:
        """Follow the events that a key expression matches, in the order of the log.

        A lost connection is taken up again, after 100 ms, doubling to 30 s, and continues behind
        the last event: none is lost or seen twice. Where the log no longer holds what came next,
        a `Gap` says so first. Leaving the iteration ends the subscription.

        Args:
            key_expression: A key; ``*`` stands for one segment, ``**`` for any number.
            after: Continue behind this event, or from `Start.EARLIEST`; from now where absent.
            on_reconnect: Is told of each lost connection, and of each try that failed.
            give_up_s: Raise UNAVAILABLE after so many seconds without a connection; never where
                absent.
            idle_s: Seconds of silence, keep-alives included, after which to reconnect.

        Raises:
            PlaneError: The component refuses the subscription, or the plane has no HTTP door.
        """
        return subscribe(
            self._events("subscribe"),
            key_expression,
            after=after,
            on_reconnect=on_reconnect,
            give_up_s=give_up_s,
            idle_s=idle_s,
        )

    async def aclose(self) -> None:
        """Cancel what is open and close all connections; closing twice does nothing."""
        if isinstance(self._calls, GrpcChannel):
            await self._calls.aclose()
        if self._session is not None:
            await self._session.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _events(self, what: str) -> HttpSession:
        if self._session is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"to {what}, events go through the HTTP door; give its address too: "
                f"connect({self.target!r}, http='http://host:port')",
            )
        return self._session


def connect(
    target: str,
    *,
    http: str | None = None,
    tls: Tls | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    keepalive_s: float | None = None,
) -> Plane:
    """Reach a component; ``async with`` closes what this opens.

    Args:
        target: ``grpc://host:port``, ``grpcs://host:port``, ``http://…``, ``https://…``,
            ``unix:/path``, or ``host:port`` which means gRPC.
        http: Base URL of the component's HTTP door, for the events of a gRPC target.
        tls: Whom to trust and who one is; ``grpcs`` and ``https`` trust the system's authorities
            without it.
        max_message_bytes: Largest answer that is accepted.
        keepalive_s: Seconds of silence after which a gRPC connection is probed; never by default.

    Raises:
        PlaneError: INVALID_ARGUMENT where the target has no form that is known.
        OSError: A file of ``tls`` cannot be read.
    """
    parsed = parse_target(target)
    if parsed.door == "http":
        session = HttpSession(parsed.address, tls=tls)
        return Plane(target, HttpChannel(session, max_message_bytes=max_message_bytes), session)
    events = None
    if http is not None:
        base = parse_target(http)
        if base.door != "http":
            raise PlaneError(Code.INVALID_ARGUMENT, f"http={http!r} is not an http:// address")
        events = HttpSession(base.address, tls=tls)
    security = (tls or Tls()) if parsed.secure or tls is not None else None
    calls: Any = GrpcChannel(
        parsed.address, tls=security, max_message_bytes=max_message_bytes, keepalive_s=keepalive_s
    )
    return Plane(target, calls, events)
