"""How a server is to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_server.limits import Limits
from protoplane_server.tls import Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where and how a server listens.

    Attributes:
        grpc: Where gRPC listens: ``host:port``, ``unix:path`` or a port on the loopback;
            port 0 picks a free one, ``None`` leaves the door shut.
        http: Where HTTP listens, in the same forms.
        http2: Whether HTTP/2 is spoken at the HTTP door too, so that a browser may have more than
            six event streams; needs the extra ``http2``, and TLS where browsers are to use it.
        cors_origins: Origins whose pages in a browser may call the HTTP door,
            ``https://example.org`` for example; ``*`` for all.
        link: Where links are taken, for example ``link+tcp://127.0.0.1:0`` or
            ``link+unix:/run/x.sock``; see `protoplane_runtime.link.carriers.opening`. Links over
            gRPC and HTTP come in through those doors.
        inproc: Name under which this process itself calls without a link, ``inproc:<name>``.
        pick_free_port: Whether to take another port where the one asked for is taken.
        grace_s: Seconds that open calls have to finish when the server stops.
        limits: Bounds on what is taken on.
        tls: Certificates of all doors; ``None`` for plain text.
        tokens: Bearer tokens that open all doors, each with the identity that it proves; ``None``
            lets everybody in.
        engine: URL of the engine that events go through, and that others find this instance by; see
            `protoplane_runtime.engines.opening.open_engine`. ``None`` keeps events in the memory of
            this process, and tells nobody.
        namespace: Where others find it.
        name: Name of this instance, ``<component>/<id>``; made up by default.
        planes: Whether callers of any language can use the engine's events, discovery and state,
            and the object store, as the services of `protoplane.v1`. Without an engine they stand
            on one in the memory of this process.
        kserve: Whether a component that serves models answers KServe's v2 protocol too, at the gRPC
            and HTTP doors; see `protoplane_server.kserve.models.ServesModels`.
        console: Whether the HTTP door has the console, a page for people at ``/console``.
        objects: URL of the object store of the planes, see
            `protoplane_runtime.engines.objects.opening.open_object_store`; by default the one that
            goes with the engine.
        stats_interval_s: Seconds between two reports of this instance's numbers, as an event and
            as its load in discovery; ``None`` for none. There is none without an engine.
        gzip: Whether gRPC's answers are compressed.
        reflection: Whether callers may ask for the schema.
        channelz: Whether callers may ask about gRPC connections.
        keepalive_s: Seconds of silence after which a gRPC connection is pinged.
        keepalive_timeout_s: Seconds that the answer to such a ping may take.
        reuse_port: Whether other processes may listen on the same ports.
    """

    grpc: str | int | None = "127.0.0.1:50051"
    http: str | int | None = "127.0.0.1:8080"
    http2: bool = False
    cors_origins: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    inproc: str | None = None
    pick_free_port: bool = False
    grace_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    tls: Tls | None = None
    tokens: Mapping[str, str] | None = field(default=None, repr=False)
    engine: str | None = None
    namespace: str = DEFAULT_NAMESPACE
    name: str | None = None
    planes: bool = False
    kserve: bool = True
    console: bool = True
    objects: str | None = None
    stats_interval_s: float | None = 5.0
    gzip: bool = False
    reflection: bool = True
    channelz: bool = True
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    reuse_port: bool = False


class OptionFields(TypedDict, total=False):
    """The attributes of `Options` as keyword arguments."""

    grpc: str | int | None
    http: str | int | None
    http2: bool
    cors_origins: tuple[str, ...]
    link: tuple[str, ...]
    inproc: str | None
    pick_free_port: bool
    grace_s: float
    limits: Limits
    tls: Tls | None
    tokens: Mapping[str, str] | None
    engine: str | None
    namespace: str
    name: str | None
    planes: bool
    kserve: bool
    console: bool
    objects: str | None
    stats_interval_s: float | None
    gzip: bool
    reflection: bool
    channelz: bool
    keepalive_s: float
    keepalive_timeout_s: float
    reuse_port: bool
