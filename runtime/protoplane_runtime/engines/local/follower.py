"""Keeps a roster up to date with a folder's files, for as long as somebody watches it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from protoplane_base import PlaneError
from protoplane_runtime.engines.local.bells import Bell
from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.local.instance_files import Found
from protoplane_runtime.engines.processes import watch_process
from protoplane_runtime.engines.roster import Roster

LOCKS_INTERVAL_S = 0.05
"""Seconds between two looks at the locks of those whose processes cannot be watched."""

LOOK_INTERVAL_S = 5.0
"""Seconds after which to look at the folder, though no bell rang."""

Look = Callable[[frozenset[str]], Awaitable[Sequence[Found]]]
"""Looks at the files; it is given the keys of those whose life needs no proof."""


class Follower:
    """Follows the instances of one folder from `start` to `stop`; it owns one task.

    A bell tells it of those who join, change or leave; of those who die the kernel tells it, where
    it can.

    Args:
        bells: Folder to hang the bell up in.
        look: Looks at the files.
        roster: What to keep up to date.
    """

    def __init__(self, bells: Path, look: Look, roster: Roster) -> None:
        self._bells = bells
        self._look = look
        self._roster = roster
        self._wake = asyncio.Event()
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._processes: dict[str, tuple[int, int]] = {}
        self._doubtful: set[str] = set()
        self._bell: Bell | None = None
        self._task = asyncio.create_task(self._follow())

    @property
    def ended(self) -> bool:
        """Whether it gave up."""
        return self._task.done()

    async def ready(self) -> None:
        """Wait until it has looked once, or was stopped.

        Raises:
            PlaneError: It could not.
        """
        await asyncio.shield(self._first)

    async def stop(self) -> None:
        """End it and give back all that it holds."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._hang_bell_up(loop)
                self._wake.clear()
                found = await self._look(frozenset(self._processes))
                new = self._watch_processes(loop, found)
                if new:
                    # Now that they are watched: one that died before is found by its lock.
                    found = await self._look(frozenset(self._processes) - new)
                self._roster.replace(each.instance for each in found)
                if not self._first.done():
                    self._first.set_result(None)
                watched = all(each.key in self._processes for each in found)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_INTERVAL_S if watched else LOCKS_INTERVAL_S):
                        await self._wake.wait()
        except PlaneError as error:
            if self._first.done():
                self._roster.fail(error)
            else:
                self._first.set_exception(error)
                self._first.exception()  # Seen, also where all who waited have gone.
        finally:
            if not self._first.done():
                self._first.set_result(None)
            for key in tuple(self._processes):
                self._unwatch(loop, key)
            self._take_bell_down(loop)

    def _hang_bell_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hang the bell up, before the first look and whenever somebody removed it."""
        if self._bell is not None:
            if self._bell.path.exists():
                return
            self._take_bell_down(loop)
        try:
            self._bell = Bell(self._bells)
        except OSError as error:
            raise from_os(error, self._bells) from error
        loop.add_reader(self._bell.fileno(), self._rung, self._bell)

    def _take_bell_down(self, loop: asyncio.AbstractEventLoop) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            loop.remove_reader(bell.fileno())
            bell.close()

    def _rung(self, bell: Bell) -> None:
        bell.quiet()
        self._wake.set()

    def _watch_processes(
        self, loop: asyncio.AbstractEventLoop, found: Sequence[Found]
    ) -> frozenset[str]:
        """Watch the processes of those who are new, and no more those who went; gives the new."""
        wanted = {each.key: each.instance.pid for each in found if each.near}
        self._doubtful &= wanted.keys()
        for key, (pid, _) in tuple(self._processes.items()):
            if wanted.get(key) != pid:
                self._unwatch(loop, key)
        new: set[str] = set()
        for key, pid in wanted.items():
            if key in self._processes or key in self._doubtful:
                continue
            fd = watch_process(pid)
            if fd is not None:
                self._processes[key] = pid, fd
                loop.add_reader(fd, self._ended, key)
                new.add(key)
        return frozenset(new)

    def _unwatch(self, loop: asyncio.AbstractEventLoop, key: str) -> None:
        _, fd = self._processes.pop(key)
        loop.remove_reader(fd)
        os.close(fd)

    def _ended(self, key: str) -> None:
        # Its lock tells whether the instance went with it; if not, nobody knows whose it is.
        self._unwatch(asyncio.get_running_loop(), key)
        self._doubtful.add(key)
        self._wake.set()
