"""How a server is to run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from protoplane_server.limits import Limits
from protoplane_server.tls import Tls


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where and how a server listens.

    Attributes:
        grpc: Where gRPC listens: ``host:port``, ``unix:path`` or a port on the loopback;
            port 0 picks a free one, ``None`` leaves the door shut.
        http: Where HTTP listens, in the same forms.
        pick_free_port: Whether to take another port where the one asked for is taken.
        grace_s: Seconds that open calls have to finish when the server stops.
        limits: Bounds on what is taken on.
        tls: Certificates of both doors; ``None`` for plain text.
        gzip: Whether gRPC's answers are compressed.
        reflection: Whether callers may ask for the schema.
        channelz: Whether callers may ask about gRPC connections.
        keepalive_s: Seconds of silence after which a gRPC connection is pinged.
        keepalive_timeout_s: Seconds that the answer to such a ping may take.
        reuse_port: Whether other processes may listen on the same ports.
    """

    grpc: str | int | None = "127.0.0.1:50051"
    http: str | int | None = "127.0.0.1:8080"
    pick_free_port: bool = False
    grace_s: float = 10.0
    limits: Limits = field(default_factory=Limits)
    tls: Tls | None = None
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
    pick_free_port: bool
    grace_s: float
    limits: Limits
    tls: Tls | None
    gzip: bool
    reflection: bool
    channelz: bool
    keepalive_s: float
    keepalive_timeout_s: float
    reuse_port: bool
