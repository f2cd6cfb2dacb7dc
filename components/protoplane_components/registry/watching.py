"""Follows the registry for one caller: each model and placement as it is, whenever it changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager

from protoplane.registry.v1 import Placement, WatchReady, WatchResponse
from protoplane_base import Code, PlaneError
from protoplane_components.registry.catalog import Catalog, Revision
from protoplane_components.registry.placements import Place

LOOK_S = 30.0
"""Seconds after which a watcher looks by itself, in case a change was told to nobody."""


class Bell:
    """Wakes all who watch."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Event] = set()

    def ring(self) -> None:
        """Something changed."""
        for watcher in self._watchers:
            watcher.set()

    @contextmanager
    def heard(self) -> Generator[asyncio.Event]:
        """What is set whenever it rings, for as long as the block runs."""
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            yield event
        finally:
            self._watchers.discard(event)


async def watch(
    model: str,
    catalog: Catalog,
    placements: Callable[[], Mapping[Place, Placement]],
    bell: Bell,
    look_s: float = LOOK_S,
) -> AsyncGenerator[WatchResponse, None]:
    """How it is, `WatchReady`, then what changed; of several changes the last.

    It compares what there is with what was told, so nothing that is told to nobody is lost. It ends
    only when it is left.

    Args:
        model: The model to follow; all of them where empty.
        catalog: The models.
        placements: Where models are.
        bell: Rings after changes.
        look_s: Seconds after which to look by itself.

    Raises:
        PlaneError: UNAVAILABLE where the database is away.
    """
    told: Mapping[str, Revision] = {}
    placed: Mapping[Place, Placement] = {}
    ready = False
    with bell.heard() as rung:
        while True:
            rung.clear()
            now = await catalog.revisions(model)
            for name in sorted(now.keys() | told.keys()):
                if now.get(name) != told.get(name):
                    yield await _model(catalog, name)
            told = now
            there = {
                place: each
                for place, each in placements().items()
                if not model or place[0] == model
            }
            for place, each in there.items():
                if each != placed.get(place):
                    yield WatchResponse(placed=each)
            for place, each in placed.items():
                if place not in there:
                    yield WatchResponse(gone=each)
            placed = there
            if not ready:
                ready = True
                yield WatchResponse(ready=WatchReady())
            try:
                async with asyncio.timeout(look_s):
                    await rung.wait()
            except TimeoutError:
                pass


async def _model(catalog: Catalog, name: str) -> WatchResponse:
    try:
        return WatchResponse(model=await catalog.model(name))
    except PlaneError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return WatchResponse(removed=name)
