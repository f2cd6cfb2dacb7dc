"""A file that is read again when it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from protoplane_base import Code, PlaneError

_log = logging.getLogger("protoplane.gateway")

_Mark = tuple[int, int, int]


class RereadFile:
    """Hands the text of a file on, at first and whenever it has changed.

    A text that cannot be used is logged, and what was there before stays.

    Args:
        path: The file.
        use: Takes the text; raises `PlaneError` where it cannot be used.
        every_s: Seconds between two looks.
    """

    def __init__(self, path: Path, use: Callable[[str], None], *, every_s: float = 1.0) -> None:
        self._path = path
        self._use = use
        self._every_s = every_s
        self._mark: _Mark | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Read it for the first time.

        Raises:
            PlaneError: It cannot be read or used.
        """
        self._use(await self._read())
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _read(self) -> str:
        try:
            mark, text = await asyncio.to_thread(_marked, self._path)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PlaneError(
                Code.FAILED_PRECONDITION, f"{self._path} cannot be read: {reason}"
            ) from None
        self._mark = mark
        return text

    async def _follow(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                if await asyncio.to_thread(_mark, self._path) == self._mark:
                    continue
                self._use(await self._read())
            except (PlaneError, OSError) as error:
                reason = error.message if isinstance(error, PlaneError) else str(error)
                if reason != told:
                    _log.error("%s; what it held before still counts", reason)
                told = reason
            else:
                told = ""
                _log.info("%s was read again", self._path)


def _mark(path: Path) -> _Mark:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _marked(path: Path) -> tuple[_Mark, str]:
    # The mark is older than the text: a change in between is seen at the next look.
    return _mark(path), path.read_text(encoding="utf-8")
