"""Shared memory for large tensors: written here, read by a Triton on the same machine, and back.

A region of POSIX shared memory is a file in ``/dev/shm``; Triton is told of each by an rpc, and
reads and writes it from then on. Source: Triton's system shared memory extension.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from protoplane_base import PlaneError

_FOLDER = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory is
_SMALLEST_BYTES = 1 << 20
_ALIGNED_BYTES = 64

LEFT_S = 600.0
"""Seconds for which nobody uses a region whose request was left: Triton may still write to it."""


class Region:
    """A piece of shared memory that Triton knows.

    Args:
        size: Its length in bytes.

    Attributes:
        name: What Triton calls it.
        key: Its name for POSIX.
        size: Its length in bytes.
        memory: Its contents.
    """

    __slots__ = ("_path", "_used", "key", "memory", "name", "size")

    def __init__(self, size: int) -> None:
        self.name = f"protoplane-{os.getpid()}-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.size = size
        self._path = _FOLDER / self.name
        self._used = 0
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # The memory itself, not the promise of it, whose breach would be a SIGBUS.
            os.posix_fallocate(file, 0, size)
            self.memory = mmap.mmap(file, size)
        except OSError:
            self._path.unlink()
            raise
        finally:
            os.close(file)

    def room(self, size: int) -> int:
        """Offset of so many bytes that nothing else of this request has."""
        offset = self._used
        self._used = aligned(offset + size)
        return offset

    def clear(self) -> None:
        """Give all of it to the next request."""
        self._used = 0

    def hide(self) -> None:
        """Take its name away: whoever has it keeps it, and it goes with the last of them."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it; Triton keeps what it has of it until it is told to let go."""
        self.hide()
        with suppress(BufferError):  # An array still stands on it; the memory goes with that.
            self.memory.close()


class SharedRegions:
    """Regions of one Triton, used again and again.

    Args:
        register: Tells Triton of a region.
        unregister: Tells it to let go of the region of a name.
        max_bytes: Most that they take together.
    """

    def __init__(
        self,
        register: Callable[[Region], Awaitable[None]],
        unregister: Callable[[str], Awaitable[None]],
        max_bytes: int,
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._max_bytes = max_bytes
        self._bytes = 0
        self._free: list[Region] = []
        self._left: deque[tuple[float, str, int]] = deque()
        self._known: set[Region] = set()

    @property
    def taken_bytes(self) -> int:
        """What they take together."""
        return self._bytes

    async def usable(self) -> bool:
        """Whether Triton and this process have shared memory in common."""
        try:
            region = await self.take(_SMALLEST_BYTES)
        except (OSError, PlaneError):
            return False
        if region is not None:
            self.give_back(region)
        return region is not None

    async def take(self, size: int) -> Region | None:
        """A region of at least so many bytes, for one request; ``None`` where there is no room.

        Raises:
            OSError: The machine has no room for it.
            PlaneError: Triton does not take it.
        """
        rounded = max(_SMALLEST_BYTES, 1 << (size - 1).bit_length())
        await self._sweep()
        for region in self._free:
            if region.size == rounded:
                self._free.remove(region)
                return region
        while self._free and self._bytes + rounded > self._max_bytes:
            await self._drop(self._free.pop())
        if self._bytes + rounded > self._max_bytes:
            return None
        self._bytes += rounded
        try:
            made = Region(rounded)
            try:
                await self._register(made)
            except BaseException:
                made.close()
                raise
        except BaseException:
            self._bytes -= rounded
            raise
        # Triton has it now. Nothing is left of it should this process be killed.
        made.hide()
        self._known.add(made)
        return made

    def give_back(self, region: Region) -> None:
        """Its request is over."""
        if region in self._known:
            region.clear()
            self._free.append(region)
        else:
            region.close()

    def leave(self, region: Region) -> None:
        """Its request was left, and Triton may still be at it: nobody is to use it again."""
        region.close()
        if region in self._known:
            self._known.discard(region)
            self._left.append((monotonic() + LEFT_S, region.name, region.size))

    def forget(self) -> None:
        """Triton has started anew and knows none of them any more."""
        for region in self._free:
            region.close()
        self._free.clear()
        self._left.clear()
        self._known.clear()
        self._bytes = 0

    async def close(self) -> None:
        """Take them back; what was left a short time ago stays with Triton."""
        while self._free:
            await self._drop(self._free.pop())
        await self._sweep()
        self.forget()

    async def _drop(self, region: Region) -> None:
        self._known.discard(region)
        region.close()
        self._bytes -= region.size
        await self._tell(region.name)

    async def _sweep(self) -> None:
        while self._left and self._left[0][0] <= monotonic():
            _, name, size = self._left.popleft()
            self._bytes -= size
            await self._tell(name)

    async def _tell(self, name: str) -> None:
        with suppress(PlaneError):  # One that is away has nothing to let go of.
            await self._unregister(name)


def aligned(size: int) -> int:
    """The next offset at which a tensor may begin."""
    return -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
