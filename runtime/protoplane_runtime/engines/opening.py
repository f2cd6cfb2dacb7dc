"""From a URL to an engine."""

from __future__ import annotations

import os
from importlib import import_module
from typing import cast

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.engine import Engine, EngineDriver

VARIABLE = "PROTOPLANE_ENGINE"
"""The environment variable that names the engine."""

DEFAULT_URL = "local:"
"""The engine where none is named."""

# Where the `EngineDriver` of a scheme is; imported when it is asked for, as it may need an extra.
_DRIVERS = {
    "local": "protoplane_runtime.engines.local.opening",
    "memory": "protoplane_runtime.engines.memory_opening",
    "nats": "protoplane_runtime.engines.nats.opening",
    "static": "protoplane_runtime.engines.memory_opening",
    "kubernetes": "protoplane_runtime.engines.memory_opening",
    "tls": "protoplane_runtime.engines.nats.opening",
    "zenoh": "protoplane_runtime.engines.zenoh.opening",
}
_KNOWN = (
    "memory:, local:<folder>, static:<list>, nats://<servers>, zenoh:<endpoints> and "
    "kubernetes:<namespace>"
)


async def open_engine(url: str | None = None) -> Engine:
    """Open an engine.

    Args:
        url: ``memory:`` for one that lives in this process and is gone with it;
            ``local:[folder]`` for one that the processes of this machine share; without a folder
            it is ``$XDG_STATE_HOME/protoplane``, or ``~/.local/state/protoplane``; after both,
            ``?retain=…`` says what is kept, see `protoplane_runtime.engines.retention`;
            ``nats://<servers>`` for one that all who reach these servers share, see
            `protoplane_runtime.engines.nats.settings.NatsSettings.parse`;
            ``static:<list or file>`` for ``memory:`` with the instances of a list, see
            `protoplane_runtime.engines.static_discovery`; ``kubernetes:[namespace]`` for
            ``memory:`` with the ready pods of a cluster, see
            `protoplane_runtime.engines.kubernetes.discovery`; ``zenoh:[endpoints]`` for processes
            that find each other, without a broker, see
            `protoplane_runtime.engines.zenoh.settings`. Absent, it is that of
            ``$PROTOPLANE_ENGINE``, else ``local:``.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another kind, UNIMPLEMENTED where the engine does
            not run on this system; and what opening the engine itself raises.
        MissingExtraError: Its extra is not installed.
    """
    url = named(url)
    return await _driver(url).open_engine(url)


async def open_discovery(url: str | None = None) -> Discovery:
    """Open the discovery of an engine and nothing else of it: all that a mere caller needs.

    Args:
        url: As for `open_engine`. Of ``memory:``, each has its own.

    Raises:
        PlaneError: As `open_engine`.
        MissingExtraError: As `open_engine`.
    """
    url = named(url)
    return await _driver(url).open_discovery(url)


def shares_events(url: str | None) -> bool:
    """Whether processes that open the engine of a URL have one event log; ``None`` is no engine.

    Raises:
        PlaneError: There is no such engine.
    """
    return url is not None and _scheme(url) not in ("memory", "static", "kubernetes")


def check_url(url: str | None) -> None:
    """Make sure that there is an engine of a URL, without opening it.

    Args:
        url: As for `open_engine`.

    Raises:
        PlaneError: INVALID_ARGUMENT; there is none.
    """
    _scheme(named(url))


def named(url: str | None = None) -> str:
    """The URL that is meant: the one given, else the environment's, else the default."""
    return url or os.environ.get(VARIABLE) or DEFAULT_URL


def _driver(url: str) -> EngineDriver:
    return cast("EngineDriver", import_module(_DRIVERS[_scheme(url)]))


def _scheme(url: str) -> str:
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{url!r} is no engine, it has no ':'; the engines are {_KNOWN}",
        )
    if scheme not in _DRIVERS:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"there is no engine {scheme}: (in {url!r}); there are {_KNOWN}"
        )
    return scheme
