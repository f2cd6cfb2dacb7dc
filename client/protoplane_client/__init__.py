"""Find a component, call it and subscribe to its events."""

from protoplane_client.grpc_channel import GrpcChannel
from protoplane_client.http_channel import HttpChannel
from protoplane_client.http_session import HttpSession
from protoplane_client.plane import Plane, connect
from protoplane_client.subscription import Received, Reconnect
from protoplane_client.sync import SyncPlane, SyncStream, connect_sync
from protoplane_client.tls import Tls

__all__ = [
    "GrpcChannel",
    "HttpChannel",
    "HttpSession",
    "Plane",
    "Received",
    "Reconnect",
    "SyncPlane",
    "SyncStream",
    "Tls",
    "connect",
    "connect_sync",
]
