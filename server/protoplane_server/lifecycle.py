"""A server from start to drained: opens the doors of a component and shuts them in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from protoplane_base import Code, PlaneError, Service
from protoplane_runtime.engines.discovery import Instance, Registration, instance_name
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.objects.interface import ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.link.carriers.inprocess import hosted
from protoplane_runtime.sockets import Address, listen
from protoplane_server.access import TokenAccess
from protoplane_server.component import Component, instances
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.hosting import BringsAccess, Endless, Host, Hosted
from protoplane_server.kserve.offering import kserve_services
from protoplane_server.link_inprocess import InprocessHost
from protoplane_server.links import Links
from protoplane_server.metrics import Metrics
from protoplane_server.options import Options
from protoplane_server.planes.ground import Ground, objects_beside
from protoplane_server.planes.reporting import reporting
from protoplane_server.planes.stats import MetricsPlane, Stats

if TYPE_CHECKING:
    from protoplane_server.console import Console
    from protoplane_server.grpc_door import GrpcDoor
    from protoplane_server.http import HttpDoor

_log = logging.getLogger("protoplane.server")

PLANES = "protoplane/planes"
"""Path of a component that serves the planes and nothing else."""

_LAST_BYTES_S = 2.0
"""How long a door has to send what is written once no call is open."""

_LEAVE_S = 2.0
"""How long discovery may take to hear that this instance goes."""


class Server:
    """Serves components until it is left; use it with ``async with``.

    A component that is an async context manager is entered before the doors open, and left after
    they are shut.

    Args:
        components: A service, or several; classes are instantiated. None at all where the planes
            are served alone.
        options: Where and how to listen.
        events: The event log; by default that of ``options.engine``, or one in memory, which is
            closed with the server.

    Raises:
        NoComponentError: One of the components is none.
        ValueError: Two components implement the same service.
        OSError: On entering: an address cannot be listened on; the message says it plainly.
        PlaneError: On entering: the engine cannot be opened, or another instance has the name.
    """

    def __init__(
        self,
        components: Component | Iterable[Component],
        options: Options | None = None,
        *,
        events: EventLog | None = None,
    ) -> None:
        self.options = options or Options()
        self._own_events: EventLog | None = MemoryLog() if events is None else None
        # A service may be iterable itself; what is no component is an iterable of them.
        one = isinstance(components, Service) or callable(components)
        listed = [components] if one else components
        self._components = instances(cast("Iterable[Component]", listed))
        self._ground: Ground | None = None
        self._services = [*self._components]
        endless = frozenset(
            each.spec.methods[name].path
            for each in self._components
            if isinstance(each, Endless)
            for name in each.endless_methods
        )
        if self.options.planes:
            from protoplane_server.planes.services import ENDLESS, plane_services

            endless |= ENDLESS
            self._ground = Ground(
                namespace=self.options.namespace,
                max_bytes=min(1_000_000, self.options.limits.max_message_bytes // 2),
            )
            self._services += plane_services(self._ground)
        self.name = self.options.name or instance_name(_component(self._components))
        metrics = MetricsPlane()
        kserve = kserve_services(self._components) if self.options.kserve else ()
        self._protocols = tuple(service.protocol for service in kserve)
        self.dispatcher = Dispatcher(
            [*self._services, *kserve, metrics] if self._services else [],
            events=events or self._own_events or MemoryLog(),
            limits=self.options.limits,
            metrics=Metrics(),
            access=TokenAccess(self.options.tokens) if self.options.tokens else None,
            endless=endless,
        )
        self._stats = metrics.source = Stats(self.name, self.dispatcher)
        self.grpc_address: str | None = None
        self.http_url: str | None = None
        self._links: Links | None = None
        self._ready = False
        self._grpc: GrpcDoor | None = None
        self._http: HttpDoor | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._stack = contextlib.AsyncExitStack()
        self._engine: Engine | None = None
        self._announced = contextlib.AsyncExitStack()
        self._metadata: dict[str, str] = {}
        self._registration: Registration | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def events(self) -> EventLog:
        """The log that handlers publish to; that of an engine from when the server starts."""
        return self.dispatcher.events

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of what it serves, but for what every server answers: health, metrics."""
        return tuple(service.spec.full_name for service in self._services)

    @property
    def link_addresses(self) -> tuple[str, ...]:
        """Where links are taken, in order of preference."""
        return self._links.addresses if self._links is not None else ()

    async def relink(self, addresses: Iterable[str]) -> None:
        """Take links at other addresses from now on, over other carriers if need be.

        Who is connected at an address that is given up finishes its calls and goes on at the new
        ones, without noticing.

        Args:
            addresses: All that there are from now on.

        Raises:
            OSError, PlaneError: One of them cannot be listened on; then nothing has changed.
        """
        if self._links is not None:
            await self._links.listen(tuple(addresses))
        if self._registration is not None:
            await self._registration.update(endpoints=self.endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Addresses of all doors that are open, the best first."""
        secure = "s" if self.options.tls is not None else ""
        found = [] if self.options.inproc is None else [f"inproc:{self.options.inproc}"]
        # A unix socket is faster than anything else that leaves the process.
        found += sorted(self.link_addresses, key=lambda each: not each.startswith("link+unix:"))
        if self.grpc_address is not None and self.grpc_address.startswith("unix:"):
            found.append(self.grpc_address)
        elif self.grpc_address is not None:
            found.append(f"link+grpc{secure}://{self.grpc_address}")
            found.append(f"grpc{secure}://{self.grpc_address}")
        # There, unix:/path means gRPC.
        if self.http_url is not None and not self.http_url.startswith("unix:"):
            found.append(self.http_url)
        return tuple(found)

    @property
    def ready(self) -> bool:
        """Whether calls are welcome: true from when all doors are open until a drain begins."""
        return self._ready

    async def start(self) -> None:
        """Open the engine, enter the components, open the doors, and let others find this instance.

        What opened is shut again when one of it fails, or when this is cancelled.
        """
        try:
            url = self.options.engine or ("memory:" if self._ground is not None else None)
            if self._own_events is not None:
                self._stack.push_async_callback(self._own_events.close)
            if url is not None:
                await self._open_engine(url)
            for service in self._components:
                if isinstance(service, Hosted):
                    service.hosted(self._host())
                if isinstance(service, contextlib.AbstractAsyncContextManager):
                    entered: contextlib.AbstractAsyncContextManager[Any] = service
                    await self._stack.enter_async_context(entered)
                if isinstance(service, BringsAccess):
                    self._guard(service)
            await self._open()
            self._ready = True
            if self._engine is not None:
                await self._announce(self._engine)
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, grace_s: float | None = None) -> None:
        """Drain and shut: others find this instance no more, open calls finish, doors close.

        Cancelling it does not stop the shutdown. Called again, with a shorter grace, it hurries.

        Args:
            grace_s: Seconds that open calls have; by default those of the options.
        """
        grace_s = self.options.grace_s if grace_s is None else grace_s
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_s))
        else:
            await self.dispatcher.drain(grace_s)
        await asyncio.shield(self._stopping)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _guard(self, component: BringsAccess) -> None:
        access = component.who_may_call()
        if access is None:
            return
        if self.dispatcher.access is not None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{type(component).__name__} says itself who may call, and so does another "
                "component or the server's tokens; keep one of them",
            )
        self.dispatcher.guard(access)

    def _http_protocols(self) -> tuple[str, ...]:
        if self._http is None:
            return ()
        if not self.options.console:
            return ("sse",)
        from protoplane_server.console.door import PROTOCOL

        return ("sse", PROTOCOL)

    def _console(self) -> Console:
        from protoplane_server.console import Console

        options = self.options
        return Console(
            self.name,
            options.namespace,
            lambda: None if self._engine is None else self._engine.discovery,
            reports=self._engine is not None and options.stats_interval_s is not None,
        )

    def _host(self) -> Host:
        engine = self._engine
        return Host(
            self.name,
            self.events,
            None if engine is None else engine.state,
            self._open_objects,
            self.dispatcher.metrics.registry,
            None if engine is None else engine.discovery,
            self.options.namespace,
            self._metadata,
            "" if engine is None else engine.url,
            self._reannounce,
        )

    async def _reannounce(self) -> None:
        if self._registration is not None:
            await self._registration.update(metadata=self._metadata)

    async def _open_objects(self) -> ObjectStore:
        if self._ground is not None:
            return self._ground.floor.objects
        beside = objects_beside("memory:" if self._engine is None else self._engine.url)
        return await open_object_store(self.options.objects or beside)

    async def _open_engine(self, url: str) -> None:
        self._engine = engine = await open_engine(url)
        self._stack.push_async_callback(engine.close)
        if self._own_events is not None:
            self.dispatcher.events = engine.events
        if self._ground is not None:
            objects = self.options.objects or objects_beside(url)
            await self._stack.enter_async_context(self._ground.open(engine, self.events, objects))

    async def _announce(self, engine: Engine) -> None:
        instance = Instance(
            self.name,
            self.endpoints,
            self.services,
            # Components may change theirs; only an update tells others.
            metadata=dict(self._metadata),
            protocols=(*self._protocols, *self._http_protocols()),
            namespace=self.options.namespace,
            log=str(self.events.last.epoch),
        )
        self._registration = registration = await self._announced.enter_async_context(
            engine.discovery.register(instance)
        )
        if self.options.stats_interval_s is not None:
            await self._announced.enter_async_context(
                reporting(self._stats, self.events, registration, self.options.stats_interval_s)
            )

    async def _leave(self) -> None:
        self._registration = None
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._announced.aclose()
        except TimeoutError:
            _log.warning("discovery does not hear that %s goes", self.name)
        except PlaneError as error:
            _log.warning("%s could not leave discovery: %s", self.name, error.message)

    async def _open(self) -> None:
        options = self.options
        self._links = links = Links(self.dispatcher, self.name, options.tls)
        if options.inproc is not None:
            host = InprocessHost(self.dispatcher, self.name)
            self._stack.enter_context(hosted(options.inproc, host))
        await links.listen(options.link)
        if options.http is not None:
            from protoplane_server.http import HttpDoor

            self._http = HttpDoor(
                self.dispatcher,
                health=lambda: self._ready,
                link=links.through("http"),
                tls=options.tls.ssl_context() if options.tls else None,
                grace_s=_LAST_BYTES_S,
                http2=options.http2,
                cors_origins=options.cors_origins,
                beside=(self._console(),) if options.console else (),
            )
            listener, address = self._listen(Address.parse(options.http))
            self._http_task = asyncio.create_task(self._run_http(self._http, listener))
            self._http_task.add_done_callback(_report)
            self.http_url = (
                str(address)
                if address.path
                else f"{'https' if options.tls else 'http'}://{address}"
            )
            if address.path:
                self._stack.callback(Path(address.path).unlink, missing_ok=True)
        if options.grpc is not None:
            # Heavy, and a server may do without this door.
            from protoplane_server.grpc_door import GrpcDoor, GrpcOptions

            self._grpc = GrpcDoor(
                self.dispatcher,
                GrpcOptions(
                    tls=options.tls,
                    gzip=options.gzip,
                    reflection=options.reflection,
                    channelz=options.channelz,
                    reuse_port=options.reuse_port,
                    keepalive_s=options.keepalive_s,
                    keepalive_timeout_s=options.keepalive_timeout_s,
                ),
                link=links.through("grpc"),
            )
            address = Address.parse(options.grpc)
            try:
                self.grpc_address = await self._grpc.start(str(address))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not options.pick_free_port or address.path:
                    raise
                self.grpc_address = await self._grpc.start(str(address.with_port(0)))
                _log.warning("%s is taken; gRPC is at %s instead", address, self.grpc_address)

    def _listen(self, address: Address) -> tuple[socket.socket, Address]:
        try:
            return listen(address, reuse_port=self.options.reuse_port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self.options.pick_free_port or address.path:
                raise
            listener, picked = listen(address.with_port(0), reuse_port=self.options.reuse_port)
            _log.warning("%s is taken; HTTP is at %s instead", address, picked)
            return listener, picked

    async def _run_http(self, door: HttpDoor, listener: socket.socket) -> None:
        try:
            await door.run([listener])
        finally:
            listener.close()

    async def _stop(self, grace_s: float) -> None:
        self._ready = False
        # First of all: who looks now finds others.
        await self._leave()
        if self._grpc is not None:
            self._grpc.stop_serving()
        if self._links is not None:
            await self._links.drain()
        # The doors stay open meanwhile: probes are told, and new calls are refused politely.
        await self.dispatcher.drain(grace_s)
        if self._links is not None:
            await self._links.stop(_LAST_BYTES_S)
        if self._http is not None:
            self._http.stop()
        if self._grpc is not None:
            await self._grpc.stop(_LAST_BYTES_S)
        if self._http_task is not None:
            _, late = await asyncio.wait([self._http_task], timeout=2 * _LAST_BYTES_S)
            for task in late:
                task.cancel()
            await asyncio.wait([self._http_task])
        # Components last but for the planes, so that they can still tell of what they end.
        await self._stack.aclose()


def _component(components: Sequence[Service]) -> str:
    """Path of the component that some services make up."""
    if not components:
        return PLANES
    spec = components[0].spec
    return spec.component or spec.full_name


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the HTTP door failed", exc_info=error)
