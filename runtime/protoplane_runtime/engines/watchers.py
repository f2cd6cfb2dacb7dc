"""Those who watch a discovery: its engine is followed for as long as there are some."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, TypeVar

from protoplane_runtime.engines.discovery import Change
from protoplane_runtime.engines.roster import Roster, check_asked


class Follower(Protocol):
    """Keeps a roster up to date."""

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself, so that another one is needed."""
        ...

    async def ready(self) -> None:
        """Wait until the roster holds who is there."""
        ...

    async def stop(self) -> None:
        """Follow nobody any more; twice does nothing more."""
        ...


_Follower = TypeVar("_Follower", bound=Follower)


class Watchers(Generic[_Follower]):
    """Those who watch a roster, which is followed while there are any.

    Args:
        roster: The roster.
        follow: Begins to follow the engine.
    """

    def __init__(self, roster: Roster, follow: Callable[[], _Follower]) -> None:
        self._roster = roster
        self._follow = follow
        self._count = 0
        self._follower: _Follower | None = None

    @property
    def follower(self) -> _Follower | None:
        """What keeps the roster up to date; ``None`` where nobody watches."""
        return self._follower

    def watch(
        self, path: str | None, namespace: str | None
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`.

        Raises:
            PlaneError: INVALID_ARGUMENT for what is no path or namespace.
        """
        check_asked(path, namespace)
        return self._watch(path, namespace)

    async def close(self) -> None:
        """Follow the engine no more."""
        follower, self._follower = self._follower, None
        if follower is not None:
            await follower.stop()

    async def _watch(
        self, path: str | None, namespace: str | None
    ) -> AsyncGenerator[Sequence[Change], None]:
        if self._roster.closed:
            return
        self._count += 1
        try:
            if self._follower is None or self._follower.ended:
                self._follower = self._follow()
            await self._follower.ready()
            async with aclosing(self._roster.watch(path, namespace)) as watched:
                async for changes in watched:
                    yield changes
        finally:
            self._count -= 1
            if self._count == 0:
                await self.close()
