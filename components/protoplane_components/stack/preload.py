"""What the supervisor imports before it forks, so that its processes need not, each for itself."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Iterable
from importlib import import_module

from protoplane_components.stack.roles import Role

_log = logging.getLogger("protoplane.stack")

# What servers import once they start, or are called. None of it starts a thread when it is
# imported; gRPC would with the first channel, and OpenBLAS ends its own before a fork.
_SERVER = (
    "protoplane_client",
    "protoplane_runtime.engines.local.discovery",
    "protoplane_runtime.engines.local.log",
    "protoplane_runtime.engines.local.opening",
    "protoplane_runtime.engines.local.state",
    "protoplane_runtime.link.carriers.unix",
    "protoplane_server.exposition",
    "protoplane_server.http",
    "uvicorn.lifespan.off",
    "uvloop",
)


def preload(roles: Iterable[Role]) -> None:
    """Import what several of the roles need; what only one needs, that one imports itself.

    So they import beside each other, on all processors. What cannot be imported is left to its
    role, which says so in its log.
    """
    count = Counter(role.component.partition(":")[0] for role in roles)
    shared = [name for name, users in count.items() if users > 1]
    for name in (*_SERVER, *shared):
        try:
            module = import_module(name)
            for exported in getattr(module, "__all__", ()):
                # Packages import what they export when it is asked for.
                getattr(module, exported)
        except Exception as error:  # noqa: BLE001 - a component's module may raise anything
            _log.info("%s is not imported ahead: %s: %s", name, type(error).__name__, error)
    # Else the first collection of each process would copy the pages of all that is shared.
    gc.collect()
    gc.freeze()
