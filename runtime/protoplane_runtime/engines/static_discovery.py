"""Discovery of the engine ``static:``: a list that somebody wrote, in the URL or in a file.

``static:forge/captioner=grpc://10.0.0.1:50051,http://10.0.0.1:8080;forge/router=…`` lists
components, each with the addresses of one instance; a component may come several times.
``static:/etc/protoplane/instances.toml`` names a file of TOML or JSON::

    [[instances]]
    component = "forge/captioner"
    endpoints = ["grpc://10.0.0.1:50051", "http://10.0.0.1:8080"]

where ``component``, or ``name`` for a certain instance of it, and ``endpoints`` are needed, and all
other attributes of `Instance` may stand. The file is read anew when it changes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tomllib
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self, cast

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.engines.roster import place_of

_log = logging.getLogger("protoplane.discovery")

LOOK_INTERVAL_S = 0.5
"""Seconds between two looks at the file's time of change."""

_SUFFIXES = (".toml", ".json")
_Stamp = tuple[int, int, int] | None


class StaticDiscovery(MemoryDiscovery):
    """A `Discovery` over a list; get one from `open`.

    Nobody else is told of what is registered here: it is seen in this process alone. Whether those
    on the list are there, nobody looks; who calls them finds out.
    """

    def __init__(
        self, listed: Iterable[Instance], file: Path | None = None, stamp: _Stamp = None
    ) -> None:
        super().__init__()
        self._show(listed)
        self._following = (
            asyncio.create_task(self._follow(file, stamp)) if file is not None else None
        )

    @classmethod
    async def open(cls, text: str) -> Self:
        """Read a list: what follows ``static:`` in the URL.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong with it, NOT_FOUND where there is no
                such file.
        """
        if text.endswith(_SUFFIXES):
            file = Path(os.path.expanduser(text))  # noqa: ASYNC240, PTH111  # reads no disk
            # Before it is read: what changes meanwhile is read again.
            stamp = await asyncio.to_thread(_stamp, file)
            return cls(await asyncio.to_thread(read, file), file, stamp)
        return cls(parse(text))

    async def close(self) -> None:
        """End all watches, and look at the file no more."""
        await super().close()
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])

    async def _follow(self, file: Path, seen: _Stamp) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            stamp = await asyncio.to_thread(_stamp, file)
            if stamp == seen:
                continue
            seen = stamp
            try:
                listed = await asyncio.to_thread(read, file)
            except PlaneError as error:
                _log.warning("the list of instances stays as it was: %s", error.message)
            else:
                self._show(listed)


def parse(text: str) -> tuple[Instance, ...]:
    """Read ``component=address,address;component=…``.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong with it.
    """
    found: list[Instance] = []
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        component, equals, addresses = entry.partition("=")
        endpoints = tuple(filter(None, (part.strip() for part in addresses.split(","))))
        if not (equals and endpoints):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{entry!r} lists no instance; write static:forge/captioner=grpc://host:port, with "
                "',' between addresses and ';' between instances, or name a .toml or .json file",
            )
        found.append(_listed({"component": component.strip(), "endpoints": endpoints}))
    return _distinct(found, "static:")


def read(file: Path) -> tuple[Instance, ...]:
    """Read a file; blocks.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong with it, NOT_FOUND where there is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
        data: Any = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except FileNotFoundError:
        raise PlaneError(Code.NOT_FOUND, f"there is no file {file}") from None
    except (OSError, ValueError) as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{file} cannot be read: {error}") from error
    entries: Any = data
    if isinstance(data, dict):
        entries = cast("dict[str, Any]", data).get("instances")
    if not isinstance(entries, list):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{file} lists no instances; write [[instances]] for each"
        )
    found: list[Instance] = []
    for number, entry in enumerate(cast("Sequence[object]", entries), 1):
        try:
            found.append(_listed(entry))
        except PlaneError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{file}, instance {number}: {error.message}"
            ) from error
    return _distinct(found, str(file))


def _listed(entry: object) -> Instance:
    if not isinstance(entry, dict):
        raise PlaneError(Code.INVALID_ARGUMENT, "an instance has component and endpoints")
    data: dict[str, Any] = {"started_s": 0.0, "host": "", "pid": 0}
    data |= cast("dict[str, Any]", entry)
    component = data.pop("component", None)
    endpoints = data.get("endpoints")
    if not endpoints:
        raise PlaneError(Code.INVALID_ARGUMENT, "it has no endpoints")
    if "name" not in data:
        # The same after a restart, and on every machine that has the same list.
        digest = blake2b(repr(tuple(endpoints)).encode(), digest_size=4).hexdigest()
        data["name"] = f"{component or ''}/{digest}"
    return Instance.from_data(data)


def _distinct(found: list[Instance], where: str) -> tuple[Instance, ...]:
    places = [place_of(each) for each in found]
    for place in places:
        if places.count(place) > 1:
            raise PlaneError(Code.INVALID_ARGUMENT, f"{where} lists {place[1]} twice")
    return tuple(found)


def _stamp(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
