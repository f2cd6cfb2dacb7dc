"""Discovery of the engine ``local:``: the processes of one machine, without a daemon.

Joining rings the bells of those who watch; dying needs no notice, for a watcher has the kernel
tell it when a process ends. Where that cannot be had, the locks are looked at every now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import ParamSpec, TypeVar

from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE, Change, Instance, Registration
from protoplane_runtime.engines.local.bells import Ringer
from protoplane_runtime.engines.local.faults import translated
from protoplane_runtime.engines.local.follower import Follower
from protoplane_runtime.engines.local.instance_files import Claim, Found, InstanceFiles
from protoplane_runtime.engines.registrations import Registrations
from protoplane_runtime.engines.roster import Roster, RosterRegistration, check_asked
from protoplane_runtime.engines.watchers import Watchers

_P = ParamSpec("_P")
_R = TypeVar("_R")


class LocalDiscovery:
    """A `Discovery` in a folder that the processes of one machine share.

    Nothing is touched before it is used. It holds one thread for the folder's files, and one task
    while somebody watches; a process that was forked needs its own.

    Args:
        folder: The engine's folder, on a disk of this machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "instances"
        self._bells = folder / "instances" / "bells"
        self._files = InstanceFiles(self._folder)
        self._thread = ThreadPoolExecutor(1, "protoplane-discovery")
        self._roster = Roster()
        self._registered: Registrations[Claim] = Registrations(self._let_go)
        self._watchers = Watchers(
            self._roster, lambda: Follower(self._bells, self._look, self._roster)
        )

    @asynccontextmanager
    async def register(self, instance: Instance) -> AsyncGenerator[Registration, None]:
        """Let others find an instance; see `Discovery.register`."""
        self._roster.require_open()
        claim = Claim(self._folder, instance)
        async with self._registered.hold(
            instance,
            claim,
            take=lambda _: self._told(claim.take),
            tell=lambda changed: self._told(claim.tell, changed),
        ) as registration:
            yield registration

    async def instances(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> Sequence[Instance]:
        """Which instances live now; see `Discovery.instances`."""
        check_asked(path, namespace)
        self._roster.require_open()
        roster = Roster()
        roster.replace(found.instance for found in await self._run(self._files.look))
        return roster.select(path, namespace)

    def watch(
        self, path: str | None = None, *, namespace: str | None = DEFAULT_NAMESPACE
    ) -> AsyncGenerator[Sequence[Change], None]:
        """Follow who comes and goes; see `Discovery.watch`."""
        return self._watchers.watch(path, namespace)

    async def close(self) -> None:
        """End all watches and let go of what is still registered."""
        if self._roster.closed:
            return
        self._roster.close()
        await self._watchers.close()
        await self._registered.close()
        await asyncio.to_thread(self._thread.shutdown)

    async def _look(self, alive: frozenset[str]) -> Sequence[Found]:
        return await self._run(self._files.look, alive=alive)

    async def _told(self, call: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        await self._run(self._call_and_ring, lambda: call(*args, **kwargs))

    def _call_and_ring(self, call: Callable[[], object]) -> None:
        call()
        with closing(Ringer(self._bells)) as ringer:
            ringer.ring(None)

    async def _let_go(self, _: RosterRegistration, claim: Claim) -> None:
        # The one thread does this after what a cancelled step left to be done.
        await self._told(claim.release)

    async def _run(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Do it in the thread; a cancelled one is done all the same, and before the next."""

        def guarded() -> _R:
            with translated(self._folder):
                return call(*args, **kwargs)

        return await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(self._thread, guarded)
        )
