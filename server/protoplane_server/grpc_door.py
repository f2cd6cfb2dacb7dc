"""The gRPC door: any gRPC client, all four kinds of rpc.

Registration goes by generic handlers made from the method specs. Messages cross the library as
bytes and are decoded here, so that bytes which are no message are the caller's INVALID_ARGUMENT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_channelz.v1 import channelz

from protoplane_base import PlaneError
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.sockets import Address, bind
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.grpc_calls import method_handler
from protoplane_server.grpc_health import SERVICE as HEALTH
from protoplane_server.grpc_health import HealthService
from protoplane_server.grpc_reflection import DeclaresItself, reflection_handlers
from protoplane_server.link_grpc import link_handler
from protoplane_server.tls import Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcOptions:
    """How the gRPC door behaves.

    Attributes:
        tls: Certificates; ``None`` for plain text.
        gzip: Whether answers are compressed; compressed requests are always read.
        reflection: Whether callers may ask for the schema.
        channelz: Whether callers may ask about connections.
        reuse_port: Whether other processes may listen on the same port.
        keepalive_s: Seconds of silence after which a connection is pinged.
        keepalive_timeout_s: Seconds that the answer to a ping may take.
        max_connection_age_s: Seconds after which a client is asked to connect anew, which spreads
            clients over new instances; ``None`` for never.
    """

    tls: Tls | None = None
    gzip: bool = False
    reflection: bool = True
    channelz: bool = True
    reuse_port: bool = False
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    max_connection_age_s: float | None = None


class GrpcDoor:
    """Serves a dispatcher's methods, health, reflection and channelz over gRPC.

    Args:
        dispatcher: What serves the calls.
        options: How to behave.
        link: Takes on the links that come in here; ``None`` takes none.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        options: GrpcOptions | None = None,
        *,
        link: Started | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._link = link
        self._options = options or GrpcOptions()
        self._health: HealthService | None = None
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> str:
        """Listen.

        Args:
            address: ``host:port``, where port 0 picks a free one, or ``unix:path``.

        Returns:
            The address that can be called.

        Raises:
            OSError: The address cannot be listened on, because it is taken for example, or a file
                of the certificates cannot be read.
        """
        services = [service.spec.full_name for service in self._dispatcher.services]
        self._health = HealthService(services)
        server = grpc.aio.server(
            options=self._channel_options(),
            compression=grpc.Compression.Gzip if self._options.gzip else None,
        )
        # The library asks them in order, for every call.
        handlers = [self._service_handlers(index) for index in range(len(services))]
        if self._link is not None:
            limit = self._dispatcher.limits.max_message_bytes
            handlers.append(link_handler(self._link, limit))
        handlers.append(self._health.handlers())
        if self._options.reflection:
            pools = [
                service.descriptor_pool
                for service in self._dispatcher.services
                if isinstance(service, DeclaresItself)
            ]
            handlers += reflection_handlers([*services, HEALTH], pools)
        handlers.append(_Unknown(self._dispatcher))
        server.add_generic_rpc_handlers(tuple(handlers))
        if self._options.channelz:
            untyped: Any = channelz
            untyped.add_channelz_servicer(server)
        if not self._options.reuse_port:
            # The library does not say why it cannot listen; a socket of our own does.
            bind(Address.parse(address)).close()
        bound = _listen(server, address, self._options.tls)
        await server.start()
        self._server = server
        return bound

    def stop_serving(self) -> None:
        """Tell those who ask about health that this server is going away."""
        if self._health is not None:
            self._health.stop_serving()

    async def stop(self, grace_s: float) -> None:
        """Stop listening; calls that are still open after ``grace_s`` seconds are cancelled."""
        if self._health is not None:
            self._health.close()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _service_handlers(self, index: int) -> grpc.GenericRpcHandler:
        spec = self._dispatcher.services[index].spec
        return grpc.method_handlers_generic_handler(
            spec.full_name,
            {name: method_handler(self._dispatcher, spec.methods[name]) for name in spec.methods},
        )

    def _channel_options(self) -> Sequence[tuple[str, Any]]:
        options = self._options
        pairs: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", self._dispatcher.limits.max_message_bytes),
            # Answers are measured before they are sent, with a better message.
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", int(options.reuse_port)),
            ("grpc.enable_channelz", int(options.channelz)),
            ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            # Clients may ping an idle connection every 10 s without being sent away.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]
        if options.max_connection_age_s is not None:
            pairs.append(("grpc.max_connection_age_ms", round(options.max_connection_age_s * 1000)))
        return pairs


class _Unknown(grpc.GenericRpcHandler):
    """Comes last and answers for methods that nobody serves, with what there is instead."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """A handler that fails the call."""
        path = handler_call_details.method

        async def refuse(_requests: Any, context: Any) -> None:
            try:
                self._dispatcher.method(path)
            except PlaneError as error:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, error.message)

        make: Any = grpc.stream_stream_rpc_method_handler
        return make(refuse)


def _listen(server: grpc.aio.Server, address: str, tls: Tls | None) -> str:
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            ca = tls.client_ca.read_bytes() if tls.client_ca else None
            credentials = grpc.ssl_server_credentials(
                [(tls.key.read_bytes(), tls.certificate.read_bytes())],
                root_certificates=ca,
                require_client_auth=ca is not None,
            )
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}") from error
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
