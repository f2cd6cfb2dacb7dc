"""The console's paths at the HTTP door.

The page and its files say nothing of anybody, so they are open, as ``/docs`` is. What they show
comes from elsewhere at the same door, and from ``/console/instances``, for which a caller needs
what it needs for a call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.beside import Beside
from protoplane_server.http.faults import HttpError
from protoplane_server.http.metadata import RequestMetadata
from protoplane_server.http.state import DoorState

if TYPE_CHECKING:
    from protoplane_server.console.files import File

PATH = "/console"
"""Where the page is; what belongs to it is below."""

PROTOCOL = "console"
"""What an instance with a console says of itself in discovery, among its protocols."""

_BELOW = f"{PATH}/"


class Console:
    """The console of one instance.

    Args:
        name: Path of the instance.
        namespace: Where others find it, and where it looks for them.
        discovery: Asked for who is there, each time that somebody watches; ``None`` from it means
            that there is no engine to know.
        reports: Whether the instance publishes its numbers as events.
    """

    def __init__(
        self,
        name: str,
        namespace: str,
        discovery: Callable[[], Discovery | None],
        *,
        reports: bool,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.discovery = discovery
        self.reports = reports

    def http_routes(self, state: DoorState) -> Beside:
        """Its paths, for one door."""
        return _Paths(self, state)


class _Paths:
    def __init__(self, console: Console, state: DoorState) -> None:
        self._console = console
        self._state = state
        self._loaded: Mapping[str, File] | None = None
        self._described: bytes | None = None

    def serves(self, path: str) -> bool:
        """Whether a path is the page's, or below it."""
        return path.partition("?")[0] == PATH or path.startswith(_BELOW)

    async def serve(self, exchange: Exchange) -> None:
        """Serve one request.

        Raises:
            PlaneError: There is no such file, or the caller may not ask.
        """
        from protoplane_server.console.files import HEADERS, PAGE, serve_file

        path, verb = exchange.scope["path"], exchange.scope["method"]
        if verb not in ("GET", "HEAD"):
            raise HttpError(
                405,
                Code.UNIMPLEMENTED,
                f"{path} takes GET, not {verb}",
                [(b"allow", b"GET, HEAD")],
            )
        name = path.removeprefix(PATH).removeprefix("/")
        if path == _BELOW:
            # What the page names is relative to the folder that it is in.
            await exchange.answer(308, [(b"location", b"../console")], b"")
        elif name == "api.json":
            headers: Headers = [*HEADERS, (b"content-type", b"application/json")]
            await exchange.answer(200, headers, await self._description())
        elif name == "instances" and verb == "GET":
            await self._instances(exchange)
        elif file := (await self._files()).get(name or PAGE):
            await serve_file(exchange, file)
        else:
            raise HttpError(404, Code.NOT_FOUND, f"the console has no {name[:80]!r}; see {PATH}")

    async def _instances(self, exchange: Exchange) -> None:
        access = self._state.dispatcher.access
        if access is not None:
            access.caller(RequestMetadata(exchange.scope["headers"]))
        discovery = self._console.discovery()
        if discovery is None:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{self._console.name} has no engine, so it knows nobody else; serve it with one",
            )
        from protoplane_server.console.instances import serve_instances

        await serve_instances(exchange, self._state, discovery, self._console.namespace)

    # Most instances are never asked for their console, so nothing of it is read before; and who
    # asks first does not hold up the others meanwhile.

    async def _files(self) -> Mapping[str, File]:
        from protoplane_server.console.files import load_files

        if self._loaded is None:
            self._loaded = await asyncio.to_thread(load_files)
        return self._loaded

    async def _description(self) -> bytes:
        if self._described is None:
            self._described = await asyncio.to_thread(self._describe)
        return self._described

    def _describe(self) -> bytes:
        from protoplane_server.console.description import About, describe
        from protoplane_server.planes.reporting import STATS_PREFIX

        console, dispatcher = self._console, self._state.dispatcher
        about = About(
            name=console.name,
            namespace=console.namespace,
            watches=console.discovery() is not None,
            stats=STATS_PREFIX if console.reports else "",
        )
        document = describe(
            about,
            [service.spec for service in dispatcher.services],
            guarded=dispatcher.access is not None,
        )
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
