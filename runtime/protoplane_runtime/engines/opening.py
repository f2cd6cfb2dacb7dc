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
    "static": "protoplane_runtime.engines.memory_opening",
}
_EXTRAS = {"nats": "nats", "tls": "nats", "ws": "nats", "zenoh": "zenoh"}


async def open_engine(url: str | None = None) -> Engine:
    """Open an engine.

    Args:
        url: ``memory:`` for one that lives in this process and is gone with it;
            ``local:[folder]`` for one that the processes of this machine share; without a folder
            it is ``$XDG_STATE_HOME/protoplane``, or ``~/.local/state/protoplane``;
            ``static:<list or file>`` for ``memory:`` with the instances of a list, see
            `protoplane_runtime.engines.static_discovery`. Absent, it is that of
            ``$PROTOPLANE_ENGINE``, else ``local:``.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another kind, UNIMPLEMENTED where the engine does
            not run on this system or is not there yet; and what opening the engine itself raises.
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
    return url is not None and _scheme(url) not in ("memory", "static")


def check_url(url: str | None) -> None:
    """Make sure that there is an engine of a URL, without opening it.

    Args:
        url: As for `open_engine`.

    Raises:
        PlaneError: INVALID_ARGUMENT or UNIMPLEMENTED; there is none.
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
            f"{url!r} is no engine: write memory:, local:, local:<folder> or static:<list>",
        )
    if scheme not in _DRIVERS:
        raise _missing(scheme, url)
    return scheme


def _missing(scheme: str, url: str) -> PlaneError:
    if scheme in _EXTRAS:
        return PlaneError(
            Code.UNIMPLEMENTED,
            f"the engine {scheme}: is not part of this Protoplane; it will come with "
            f"pip install 'protoplane[{_EXTRAS[scheme]}]'; until then, use local: or memory:",
        )
    return PlaneError(
        Code.INVALID_ARGUMENT,
        f"there is no engine {scheme}: (in {url!r}); the engines are memory:, local: and static:",
    )
