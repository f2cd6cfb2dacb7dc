"""From a URL to an engine."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.interface import EventLog
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.engines.memory_state import MemoryState
from protoplane_runtime.engines.state import StateStore

VARIABLE = "PROTOPLANE_ENGINE"
"""The environment variable that names the engine."""

DEFAULT_URL = "local:"
"""The engine where none is named."""

_SCHEMES = frozenset({"memory", "local", "static"})
_EXTRAS = {"nats": "nats", "tls": "nats", "ws": "nats", "zenoh": "zenoh"}


@dataclass(frozen=True, slots=True)
class Engine:
    """What stands behind the planes; close it when done.

    Attributes:
        url: The URL that it was opened by.
        events: Its event log.
        discovery: Who is there.
        state: Its state store.
    """

    url: str
    events: EventLog
    discovery: Discovery
    state: StateStore

    async def close(self) -> None:
        """Give back all that it holds; closing twice does nothing."""
        async with AsyncExitStack() as stack:
            for part in (self.events, self.state, self.discovery):
                stack.push_async_callback(part.close)


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
    """
    url = named(url)
    scheme, rest = _parts(url)
    discovery = await open_discovery(url)
    if scheme != "local":
        return Engine(url, MemoryLog(), discovery, MemoryState())
    from protoplane_runtime.engines.local.log import LocalLog
    from protoplane_runtime.engines.local.state import LocalState

    folder = _folder(rest)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(discovery.close)
        events = await LocalLog.open(folder)
        stack.push_async_callback(events.close)
        engine = Engine(url, events, discovery, await LocalState.open(folder))
        stack.pop_all()
    return engine


async def open_discovery(url: str | None = None) -> Discovery:
    """Open the discovery of an engine and nothing else of it: all that a mere caller needs.

    Args:
        url: As for `open_engine`. Of ``memory:``, each has its own.

    Raises:
        PlaneError: As `open_engine`.
    """
    url = named(url)
    scheme, rest = _parts(url)
    if scheme == "memory":
        if rest:
            raise PlaneError(Code.INVALID_ARGUMENT, f"memory: takes nothing more, not {rest!r}")
        return MemoryDiscovery()
    if scheme == "static":
        from protoplane_runtime.engines.static_discovery import StaticDiscovery

        return await StaticDiscovery.open(rest)
    if sys.platform == "win32":
        raise PlaneError(
            Code.UNIMPLEMENTED,
            "the engine local: needs file locks and sockets that Windows has not; use memory:",
        )
    from protoplane_runtime.engines.local.discovery import LocalDiscovery

    return LocalDiscovery(_folder(rest))


def shares_events(url: str | None) -> bool:
    """Whether processes that open the engine of a URL have one event log; ``None`` is no engine.

    Raises:
        PlaneError: There is no such engine.
    """
    return url is not None and _parts(url)[0] not in ("memory", "static")


def check_url(url: str | None) -> None:
    """Make sure that there is an engine of a URL, without opening it.

    Args:
        url: As for `open_engine`.

    Raises:
        PlaneError: INVALID_ARGUMENT or UNIMPLEMENTED; there is none.
    """
    _parts(named(url))


def named(url: str | None = None) -> str:
    """The URL that is meant: the one given, else the environment's, else the default."""
    return url or os.environ.get(VARIABLE) or DEFAULT_URL


def _parts(url: str) -> tuple[str, str]:
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{url!r} is no engine: write memory:, local:, local:<folder> or static:<list>",
        )
    if scheme not in _SCHEMES:
        raise _missing(scheme, url)
    return scheme, rest


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


def _folder(path: str) -> Path:
    return (Path(path).expanduser() if path else default_folder()).absolute()


def default_folder() -> Path:
    """The folder of ``local:``, after the XDG Base Directory Specification."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # The specification says to ignore a relative path.
    base = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return base / "protoplane"
