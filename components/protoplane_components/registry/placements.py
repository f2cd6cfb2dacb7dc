"""Which instances have which models: what they say on the state plane, while discovery has them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing

from pydantic import ValidationError

from protoplane.inference.v1 import ModelState, ModelStatusChanged
from protoplane.registry.v1 import Placement
from protoplane_base import PlaneError
from protoplane_runtime.engines.discovery import Discovery, Left
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, StateStore

EXPRESSION = "**/models/*"
"""Keys of the state plane under which instances say what they have."""

Place = tuple[str, str]
"""A model and an instance, in the order that placements are listed by."""

_PAUSE_S = 1.0
_log = logging.getLogger("protoplane.registry")


class Placements:
    """Follows where models are; `run` it beside.

    Args:
        state: The state plane.
        discovery: Says which instances are there.
        namespace: Where they are looked for.
        changed: Called after each change.
    """

    def __init__(
        self,
        state: StateStore,
        discovery: Discovery,
        namespace: str,
        changed: Callable[[], None],
    ) -> None:
        self._state = state
        self._discovery = discovery
        self._namespace = namespace
        self._changed = changed
        self._there: set[str] = set()
        self._said: dict[str, ModelStatusChanged] = {}
        self._current: Mapping[Place, Placement] = {}
        self._known = [asyncio.Event(), asyncio.Event()]

    @property
    def current(self) -> Mapping[Place, Placement]:
        """Where models are now, by model, then by instance."""
        return self._current

    async def run(self) -> None:
        """Follow both planes until cancelled, or until they are closed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_again(self._follow_instances))
            group.create_task(_again(self._follow_models))

    async def known(self) -> None:
        """Wait until both planes have said what there is."""
        for each in self._known:
            await each.wait()

    async def _follow_instances(self) -> None:
        self._there.clear()
        async with aclosing(self._discovery.watch(None, namespace=self._namespace)) as batches:
            async for changes in batches:
                for change in changes:
                    if isinstance(change, Left):
                        self._there.discard(change.instance.name)
                    else:
                        self._there.add(change.instance.name)
                self._known[0].set()
                self._look()

    async def _follow_models(self) -> None:
        async with aclosing(self._state.watch(EXPRESSION)) as changes:
            async for change in changes:
                match change:
                    case Snapshot():
                        self._said.clear()
                        for entry in change.entries:
                            self._hear(entry)
                    case Entry():
                        self._hear(change)
                    case Deleted():
                        self._said.pop(change.key, None)
                self._known[1].set()
                self._look()

    def _hear(self, entry: Entry) -> None:
        try:
            self._said[entry.key] = ModelStatusChanged.model_validate_json(
                entry.value, extra="ignore"
            )
        except ValidationError:
            # Something else that is kept under such a key.
            self._said.pop(entry.key, None)

    def _look(self) -> None:
        newest: dict[Place, ModelStatusChanged] = {}
        for said in self._said.values():
            place = said.name, said.instance
            known = newest.get(place)
            if said.instance in self._there and (known is None or _at(known) <= _at(said)):
                newest[place] = said
        current = {
            place: _placement(newest[place])
            for place in sorted(newest)
            if newest[place].state != ModelState.MODEL_STATE_UNLOADED
        }
        if current != self._current:
            self._current = current
            self._changed()


async def _again(follow: Callable[[], Awaitable[None]]) -> None:
    """Follow until the plane is closed; a plane that is away is followed again."""
    while True:
        try:
            return await follow()
        except PlaneError as error:
            _log.warning("where models are is not followed for a moment: %s", error.message)
            await asyncio.sleep(_PAUSE_S)


def _at(said: ModelStatusChanged) -> tuple[int, int]:
    return (0, 0) if said.changed_at is None else (said.changed_at.seconds, said.changed_at.nanos)


def _placement(said: ModelStatusChanged) -> Placement:
    return Placement(
        instance=said.instance,
        model=said.name,
        version=said.version,
        state=said.state,
        reason=said.reason,
        changed_at=said.changed_at,
    )
