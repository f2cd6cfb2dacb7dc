"""What a service is: its methods as values, a base to implement, and a client to call.

Generated code fills these in. Servers and channels read the `MethodSpec` and need nothing else, so
neither knows of the other, and neither needs protobuf's own service stubs.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, Protocol, TypedDict, TypeVar

from protoplane_base.codec import Codec
from protoplane_base.errors import Code, PlaneError
from protoplane_base.message import Message

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

Metadata = Mapping[str, str | bytes]
"""Metadata of a call by lower-case name; names that end in ``-bin`` have bytes as values."""


class MethodKind(Enum):
    """The four kinds of rpc.

    Attributes:
        client_streaming: Whether the caller sends any number of messages.
        server_streaming: Whether the component answers with any number of messages.
    """

    UNARY = "unary"
    SERVER_STREAM = "server_stream"
    CLIENT_STREAM = "client_stream"
    BIDI_STREAM = "bidi_stream"

    # Plain attributes: every call asks for them.
    client_streaming: bool
    server_streaming: bool

    def __init__(self, value: str) -> None:
        self.client_streaming = value in ("client_stream", "bidi_stream")
        self.server_streaming = value in ("server_stream", "bidi_stream")


class Idempotency(Enum):
    """Whether a call may be repeated (proto's ``idempotency_level``)."""

    UNKNOWN = "unknown"
    NO_SIDE_EFFECTS = "no_side_effects"
    IDEMPOTENT = "idempotent"


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One binding of ``google.api.http``.

    Attributes:
        verb: HTTP method, upper case.
        path: Path template, for example ``/v1/{name=models/*}:load``.
        body: Field that the body fills, ``*`` for all that the path leaves, empty for none.
        response_body: Field that the body of the answer is; empty for the whole message.
    """

    verb: str
    path: str
    body: str = ""
    response_body: str = ""


@dataclass(frozen=True, slots=True)
class MethodSpec(Generic[_Req, _Res]):
    """One rpc of a schema.

    Attributes:
        service: Full name of its service.
        name: Name in the schema.
        python_name: Name of the method that implements or calls it.
        kind: Which of the four kinds it is.
        request: Codec of what is sent.
        response: Codec of what is answered.
        idempotency: Whether a call may be repeated.
        routes: HTTP routes that the schema declares, in order.
        deprecated: Whether the schema deprecates it.
        doc: Its comment.
    """

    service: str
    name: str
    python_name: str
    kind: MethodKind
    request: Codec[_Req]
    response: Codec[_Res]
    idempotency: Idempotency = Idempotency.UNKNOWN
    routes: tuple[HttpRoute, ...] = ()
    deprecated: bool = False
    doc: str = ""

    @property
    def path(self) -> str:
        """The path that gRPC and Connect give it: ``/package.Service/Method``."""
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service of a schema.

    Attributes:
        full_name: For example ``forge.captioner.v1.CaptionerService``.
        component: Default name of a component that implements it; empty where the schema has none.
        file: Proto file that declares it.
        methods: Its rpcs by name in the schema.
        events: Events that its file declares.
        package: Python package that it was generated into, which holds its documents too.
        doc: Its comment.
    """

    full_name: str
    component: str
    file: str
    methods: Mapping[str, MethodSpec[Any, Any]]
    events: tuple[type[Message], ...] = ()
    package: str = ""
    doc: str = ""


class Context(Protocol):
    """What a handler knows of the call it serves, and what it can do beside answering.

    When the caller goes away, cancels, or its deadline passes, the handler's task is cancelled
    wherever it waits; no method here needs to be asked.
    """

    @property
    def request_id(self) -> str:
        """Identifier of the call: what the caller gave, else one made for it."""
        ...

    @property
    def method(self) -> MethodSpec[Any, Any]:
        """The rpc that is being served."""
        ...

    @property
    def metadata(self) -> Metadata:
        """What the caller sent along, names in lower case."""
        ...

    @property
    def peer(self) -> str:
        """Who calls, as far as the door can tell; for logs."""
        ...

    @property
    def identity(self) -> str:
        """Who calls, as a token or a certificate proved it; empty where nothing did."""
        ...

    def time_remaining_s(self) -> float | None:
        """Seconds until the deadline, never below zero; ``None`` where there is none."""
        ...

    async def publish(
        self,
        event: Message,
        *,
        key: str | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> str:
        """Publish an event.

        Args:
            event: A message; its type's event option says the key and the retention.
            key: Key to use instead, needed where the type has no event option.
            publisher: Who publishes, the same after a restart; goes with ``number``. A durable
                event that was accepted under both before, and is still kept, is not appended
                again. Ephemeral events are never told apart this way.
            number: Number of the publication, different for each of the publisher's, from 0 to
                2**63 - 1.

        Returns:
            The event's id, that of the first where it was published before. A durable event is in
            the log by then.

        Raises:
            PlaneError: INVALID_ARGUMENT where only one of ``publisher`` and ``number`` is given;
                or the engine did not take it. Cancelling may leave it published.
        """
        ...

    def set_trailer(self, name: str, value: str | bytes) -> None:
        """Send metadata after the answer."""
        ...


class Service:
    """What a component derives from, through the generated base of its service."""

    spec: ClassVar[ServiceSpec]


def unimplemented(method: MethodSpec[Any, Any]) -> PlaneError:
    """The error of a method that a component does not implement."""
    return PlaneError(
        Code.UNIMPLEMENTED,
        f"{method.path} is not implemented here; define {method.python_name}() in the component",
    )


async def unimplemented_stream(method: MethodSpec[Any, _Res]) -> AsyncIterator[_Res]:
    """What a streaming method that a component does not implement answers: only the error."""
    for response in _refused(method):
        yield response


def _refused(method: MethodSpec[Any, _Res]) -> Iterator[_Res]:
    raise unimplemented(method)


class CallOptions(TypedDict, total=False):
    """How one call is to be made; every method of a generated client takes these by keyword.

    Attributes:
        timeout_s: Seconds until it fails with DEADLINE_EXCEEDED; without it a call takes its time.
            Where it is tried more than once, this is the time for all attempts together.
        metadata: What to send along.
        idempotency_key: Names this call, so that it is safe to repeat whatever its method does: it
            is retried as an idempotent one is. Sent along as ``idempotency-key``, by which a
            server that remembers its first answer gives that one again.
        entity: Path of who is to take the call: an instance, or a collection, any of whose
            instances will do; without it, any instance there is.
        sticky_key: Calls with the same key go to the same instance, for as long as it is there.
        hedge_after_s: Seconds without an answer after which a second instance is asked too, and
            whichever answers first is used. For unary calls that may be repeated.

    Where there is one instance only, as behind an address, the last two change nothing; ``entity``
    is refused where the instance is another, or nobody said its name.
    """

    timeout_s: float | None
    metadata: Metadata
    idempotency_key: str
    entity: str
    sticky_key: str
    hedge_after_s: float


class Channel(Protocol):
    """What carries calls to a component; each door and carrier has one.

    Cancelling a call, or leaving its stream, cancels the handler at the other end. Every method
    raises `PlaneError` when the call fails, with DEADLINE_EXCEEDED once its timeout has passed.
    """

    def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> Coroutine[Any, Any, _Res]:
        """One message there, one back."""
        ...

    def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back."""
        ...

    async def client_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> _Res:
        """Any number there, one back."""
        ...

    def bidi_stream(
        self,
        method: MethodSpec[_Req, _Res],
        requests: AsyncIterable[_Req],
        options: CallOptions,
    ) -> AsyncIterator[_Res]:
        """Any number there, any number back, each side at its own pace."""
        ...


class Client:
    """What generated clients derive from.

    Args:
        channel: What carries the calls; the client does not close it.
    """

    spec: ClassVar[ServiceSpec]

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
