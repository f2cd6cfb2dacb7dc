"""Host a component: the dispatcher, its doors, event streams and backends."""

from protoplane_base import Context
from protoplane_server.component import NoComponentError, load
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.hosting import Host, Hosted
from protoplane_server.lifecycle import Server
from protoplane_server.limits import Limits
from protoplane_server.metrics import Metrics
from protoplane_server.options import Options
from protoplane_server.serving import serve
from protoplane_server.tls import Tls

__all__ = [
    "CallContext",
    "CallInfo",
    "Context",
    "Dispatcher",
    "Host",
    "Hosted",
    "Limits",
    "Metrics",
    "NoComponentError",
    "Options",
    "Server",
    "Tls",
    "load",
    "serve",
]
