"""The way to components: `connect` gives a plane, which carries calls and events."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from protoplane_base import (
    CallOptions,
    Client,
    Code,
    DecodeError,
    Message,
    MethodKind,
    MethodSpec,
    PlaneError,
)
from protoplane_client.addressing import Whom, path_or_id
from protoplane_client.balanced import BalancedChannel
from protoplane_client.discovering import Resolver
from protoplane_client.events import EventDoor, Events, Outgoing, Place
from protoplane_client.grpc_channel import DEFAULT_MAX_MESSAGE_BYTES, GrpcChannel
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_client.inprocess_channel import InprocessChannel
from protoplane_client.link_channel import LinkChannel
from protoplane_client.named_events import NamedEvents
from protoplane_client.policy import Policy
from protoplane_client.route import Route
from protoplane_client.stats import TIMEOUT_S, CollectedStats, collect
from protoplane_client.subscription import Received, Reconnect
from protoplane_client.targets import Target, is_name, parse_target
from protoplane_client.tls import Tls
from protoplane_client.untyped import untyped_method
from protoplane_runtime.calling import outgoing_timeout_s
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Discovery, check_namespace
from protoplane_runtime.engines.interface import EventId, Gap, Publication
from protoplane_runtime.engines.opening import check_url, open_discovery
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.settings import Identity, LinkLimits, LinkSettings

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")
_C = TypeVar("_C", bound=Client)


class Plane:
    """A connection to a component: a `Channel` for generated clients, and its events.

    Made by `connect`. Nothing is sent before the first call. Leaving the block cancels what is
    still open.
    """

    def __init__(
        self,
        target: str,
        calls: BalancedChannel,
        events: Events | NamedEvents,
        resolver: Resolver | None = None,
    ) -> None:
        self.target = target
        self._channel = calls
        self._events = events
        self._resolver = resolver

    @property
    def _calls(self) -> BalancedChannel:
        if self._resolver is not None:
            self._resolver.start()
        return self._channel

    @property
    def routes(self) -> tuple[Route, ...]:
        """The ways to the instances, each with its connection's state and counters.

        By name there are none before the first call, and then those to who is there.
        """
        return self._channel.routes

    def client(self, client: type[_C]) -> _C:
        """A generated client on this plane; the same as ``client(plane)``."""
        return client(self)

    def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> Coroutine[Any, Any, _Res]:
        """One message there, one back; see `protoplane_base.Channel`."""
        return self._calls.unary(method, request, options)

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

    @overload
    async def request(
        self,
        entity: Whom | None,
        method: MethodSpec[_Req, _Res],
        message: _Req | bytes,
        /,
        **options: Unpack[CallOptions],
    ) -> _Res: ...

    @overload
    async def request(
        self,
        entity: Whom | None,
        method: str,
        message: Message | bytes,
        /,
        **options: Unpack[CallOptions],
    ) -> bytes: ...

    async def request(
        self,
        entity: Whom | None,
        method: MethodSpec[Any, Any] | str,
        message: Any,
        /,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Ask somebody something: the primitive beneath the generated clients.

        Args:
            entity: Who is to answer. An instance means that one, a collection any of its
                instances, and ``None`` anybody that the plane leads to.
            method: A unary method of a schema, or the path of one, ``/package.Service/Method``.
            message: The request, or its bytes.
            **options: How to make the call.

        Returns:
            The answer; for the path of a method its bytes.

        Raises:
            PlaneError: The call failed; INVALID_ARGUMENT for a method that streams; an
                `UnsentError` where the entity is not among those that the plane leads to.
                Cancelling it cancels the handler.
        """
        if isinstance(method, str):
            spec: MethodSpec[Any, Any] = untyped_method(method)
            if isinstance(message, Message):
                message = message.to_bytes()
        else:
            spec = method
            if spec.kind is not MethodKind.UNARY:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"{spec.path} streams; call it by plane.{spec.kind.value}(…)",
                )
            message = _message(spec, message)
        if entity is not None:
            whom = path_or_id(entity)
            if isinstance(whom, EntityId):
                began = monotonic()
                timeout_s = outgoing_timeout_s(options.get("timeout_s"))
                whom = await self._calls.resolve(whom, timeout_s)
                if timeout_s is not None:
                    options["timeout_s"] = max(0.0, timeout_s - (monotonic() - began))
            options["entity"] = whom
        return await self._calls.unary(spec, message, options)

    async def collect_stats(
        self, entity: Whom | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> CollectedStats:
        """Ask instances for their numbers, all at once.

        Args:
            entity: Whom to ask: an instance or a collection of those that the plane leads to; all
                of them where absent.
            timeout_s: Seconds that each has to answer; by name, also for the first to be there.

        Returns:
            The numbers of those who answered, and who did not, and why.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no entity; an `UnsentError` where, by name,
                there is nobody. Cancelling it cancels all questions.
        """
        there: Iterable[str] = ()
        if self._resolver is not None:
            await self._resolver.ready(timeout_s)
            there = [instance.name for instance in self._resolver.instances]
        routes = self._calls.routes
        unreached = {*there} - {route.name for route in routes}
        return await collect(routes, unreached, entity, timeout_s=timeout_s)

    async def publish(
        self,
        key: str,
        message: Message,
        *,
        entity: Whom | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> EventId:
        """Publish an event through the HTTP door of who is to have it in its log.

        Args:
            key: Key to file it under.
            message: The event.
            entity: Who is to have it. An instance means that one, a collection all of its
                instances, each in its own log, and once in a log that several share; ``None`` the
                first instance that can be reached.
            publisher: Who publishes, the same after a restart; goes with ``number``. A durable
                event that a log accepted under both before, and still keeps, is not appended to it
                again. Ephemeral events are never told apart this way.
            number: Number of the publication, different for each of the publisher's, from 0 to
                2**63 - 1.

        Returns:
            Its id, that of the first where it was published before; in the log of the first
            instance where there are several.

        Raises:
            PlaneError: Not all of them took it, which the message tells; INVALID_ARGUMENT where
                only one of ``publisher`` and ``number`` is given; NOT_FOUND where the entity
                is not among the instances whose HTTP doors the plane knows; FAILED_PRECONDITION
                where it knows none. Cancelling it may leave the event published.
        """
        return await self.publish_json(
            key,
            message.to_pb().DESCRIPTOR.full_name,
            message.model_dump_json(),
            entity=entity,
            publisher=publisher,
            number=number,
        )

    async def publish_json(
        self,
        key: str,
        type_: str,
        json: str,
        *,
        entity: Whom | None = None,
        publisher: str | None = None,
        number: int | None = None,
    ) -> EventId:
        """Publish an event whose message is given as ProtoJSON; otherwise as `publish`."""
        event = Outgoing(key, type_, json, Publication.of(publisher, number))
        return await self._events.publish(event, entity)

    def subscribe(
        self,
        key_expression: str | Sequence[str],
        *,
        entity: Whom | None = None,
        after: Place | Mapping[str, Place] | None = None,
        latest: bool = False,
        on_reconnect: Callable[[Reconnect], object] | None = None,
        give_up_s: float | None = None,
        idle_s: float = 60.0,
    ) -> AsyncIterator[Received | Gap]:
        """Follow the events that one of some key expressions matches, in the order of the log.

        A lost connection is taken up again, after 100 ms, doubling to 30 s, and continues behind
        the last event: none is lost or seen twice. Where the log no longer holds what came next,
        a `Gap` says so first. Leaving the iteration ends the subscription.

        Args:
            key_expression: A key, or several; ``*`` stands for one segment, ``**`` for any number.
            entity: Whose events. An instance means that one's; a collection, or ``None``, those of
                all its instances, each log in its order and ``instance`` saying which it is. By
                name, instances that share a log are followed as one, and a log that is new later on
                is not followed.
            after: Continue behind this event, from a time (`Since`), or from `Start.EARLIEST`; from
                now where absent. An event's id is a place in the log of one instance; for several,
                give one for each by name.
            latest: Leave out events that a newer one of the same key has replaced by the time the
                server sends them.
            on_reconnect: Is told of each lost connection, and of each try that failed.
            give_up_s: Raise UNAVAILABLE after so many seconds without a connection to one of them;
                never where absent.
            idle_s: Seconds of silence, keep-alives included, after which to reconnect.

        Raises:
            PlaneError: The component refuses the subscription; NOT_FOUND or FAILED_PRECONDITION as
                for `publish`.
        """
        return self._events.subscribe(
            key_expression,
            entity=entity,
            after=after,
            latest=latest,
            on_reconnect=on_reconnect,
            give_up_s=give_up_s,
            idle_s=idle_s,
        )

    async def aclose(self) -> None:
        """Cancel what is open and close all connections; closing twice does nothing."""
        if self._resolver is not None:
            await self._resolver.aclose()
        await self._channel.aclose()
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def connect(
    target: str | Sequence[str] | Mapping[str, str],
    *,
    http: str | Sequence[str] | Mapping[str, str] | None = None,
    tls: Tls | None = None,
    token: str | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    keepalive_s: float | None = None,
    policy: Policy | None = None,
    engine: str | Discovery | None = None,
    namespace: str = DEFAULT_NAMESPACE,
) -> Plane:
    """Reach a component; ``async with`` closes what this opens.

    Args:
        target: The path of a component, an instance or a collection, ``forge/captioner``: discovery
            says who that is, now and later on, and by which of its doors it is reached best. Or an
            address: ``grpc://host:port``, ``grpcs://host:port``, ``http://…``, ``https://…``,
            ``unix:/path``, ``host:port`` which means gRPC, a link's address such as
            ``link+tcp://host:port``, or ``inproc:<name>``. Several of them, or a mapping from the
            names of instances to them, share the calls. Behind a link, and inside the process,
            instances say their names themselves.
        http: Base URL of the HTTP door, for the events of other targets; or several, in the same
            forms.
        tls: Whom to trust and who one is; ``grpcs`` and ``https`` trust the system's authorities
            without it.
        token: Bearer token that opens the component.
        max_message_bytes: Largest answer that is accepted.
        keepalive_s: Seconds of silence after which a gRPC connection is probed; never by default.
        policy: How calls are balanced, repeated and given up.
        engine: Where a name is looked up: a URL as for
            `protoplane_runtime.engines.opening.open_discovery`, by default that of
            ``$PROTOPLANE_ENGINE``, else ``local:``; or a discovery, which stays open. It is opened
            for the first call.
        namespace: Where in it.

    Raises:
        PlaneError: INVALID_ARGUMENT where the target has no form that is known, ``http`` is given
            with a name, or there is no such engine.
        MissingExtraError: A carrier needs an extra that is not installed.
        OSError: A file of ``tls`` cannot be read.
    """
    by_name = isinstance(target, str) and is_name(target)
    if by_name and http is not None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"http={http!r}: for {target!r}, a name, discovery says where the HTTP doors are",
        )
    check_namespace(namespace)
    named = [] if by_name else _named(target)
    parsed = [(name, parse_target(one)) for name, one in named]
    event_targets = [(name, parse_target(one)) for name, one in _named(http or ())]
    for _, to in event_targets:
        if to.door != "http":
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"http={to.address!r} is not an http:// address"
            )
    sessions: dict[str, HttpSession] = {}
    new_session = partial(HttpSession, tls=tls, token=token)

    def session(address: str) -> HttpSession:
        if address not in sessions:
            sessions[address] = new_session(address)
        return sessions[address]

    def route(name: str | None, to: Target) -> Route:
        if to.door == "http":
            # By name, routes come and go, and take their sessions along.
            way = new_session(to.address) if by_name else session(to.address)
            return HttpChannel(way, max_message_bytes=max_message_bytes, name=name)
        if to.door == "inproc":
            return InprocessChannel(to.address, name=name)
        if to.door == "link":
            settings = LinkSettings(
                identity=Identity(token=token or ""),
                limits=LinkLimits(max_message_bytes=max_message_bytes),
            )
            return LinkChannel(to.address, settings=settings, tls=tls, name=name)
        return GrpcChannel(
            to.address,
            tls=(tls or Tls()) if to.secure or tls is not None else None,
            max_message_bytes=max_message_bytes,
            keepalive_s=keepalive_s,
            name=name,
            token=token,
        )

    if isinstance(target, str) and by_name:
        calls = (policy or Policy()).channel(())
        where: Discovery | Callable[[], Awaitable[Discovery]]
        if engine is None or isinstance(engine, str):
            check_url(engine)
            where = partial(open_discovery, engine)
        else:
            where = engine
        resolver = Resolver(where, target, calls, route, namespace=namespace)
        return Plane(target, calls, NamedEvents(resolver, new_session, target), resolver)
    routes = [route(name, to) for name, to in parsed]
    if http is None:
        doors = [
            EventDoor(session(to.address), name, one)
            for one, (name, to) in zip(routes, parsed, strict=True)
            if to.door == "http"
        ]
    else:
        same = routes[0] if len(routes) == len(event_targets) == 1 else None
        doors = [EventDoor(session(to.address), name, same) for name, to in event_targets]
    calls = (policy or Policy()).channel(routes)
    label = ", ".join(one for _, one in named)
    return Plane(label, calls, Events(doors, label))


def _message(method: MethodSpec[Any, Any], message: Any) -> Any:
    """A request as its method takes it, also where only its bytes are given."""
    codec: Any = method.request
    # Bytes may be the message itself, where it is a google.protobuf.BytesValue.
    if not isinstance(message, bytes) or not _is_model(codec):
        return message
    try:
        return codec.from_bytes(message)
    except DecodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, str(error)) from error


def _is_model(codec: Any) -> bool:
    return isinstance(codec, type) and issubclass(codec, Message)


def _named(
    targets: str | Sequence[str] | Mapping[str, str],
) -> list[tuple[str | None, str]]:
    """Targets, each with the name of the instance that is there, where it is given."""
    if isinstance(targets, str):
        return [(None, targets)]
    if isinstance(targets, Mapping):
        return [*targets.items()]
    return [(None, one) for one in targets]
