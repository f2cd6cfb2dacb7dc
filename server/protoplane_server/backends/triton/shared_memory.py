"""Memory for large tensors that Triton shares: written here, read by it, and back.

Triton is told of each region by an rpc, and reads and writes it from then on. There are two kinds:
`protoplane_server.backends.triton.system_memory`, `protoplane_server.backends.triton.cuda_memory`.
"""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import ClassVar

from protoplane_base import Code, PlaneError
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.triton.region_owner import forget_orphan

_SMALLEST_BYTES = 2 << 20  # What CUDA shares it shares in pieces of that size.
_ALIGNED_BYTES = 64

LEFT_S = 600.0
"""Seconds for which nobody uses a region whose request was left: Triton may still write to it."""


class Region(ABC):
    """A piece of memory that Triton knows.

    Args:
        size: Its length in bytes.
        name: What Triton is to call it; made up where absent.

    Attributes:
        kind: What stands before ``SharedMemoryRegister`` in the names of Triton's rpcs.
        name: What Triton calls it.
        size: Its length in bytes.
    """

    kind: ClassVar[str]

    __slots__ = ("_used", "name", "size")

    def __init__(self, size: int, name: str = "") -> None:
        self.name = name or f"protoplane-{os.getpid()}-{secrets.token_hex(8)}"
        self.size = size
        self._used = 0

    @abstractmethod
    def registration(self) -> dict[str, object]:
        """The fields of the rpc that tells Triton of it."""

    @abstractmethod
    def write(self, tensor: Tensor, offset: int) -> None:
        """Put a tensor there, in row-major order.

        Raises:
            PlaneError: INTERNAL; it cannot be written to.
        """

    @abstractmethod
    def read(self, place: slice) -> bytes | memoryview:
        """A copy of what is there.

        Raises:
            PlaneError: INTERNAL; it cannot be read.
        """

    @abstractmethod
    def hide(self) -> None:
        """Triton has it: nothing of it is to stay should this process be killed."""

    @abstractmethod
    def leave(self) -> None:
        """Nobody here uses it any more, while Triton may; `close` follows."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it; Triton has let go already, or is gone."""

    def room(self, size: int) -> int:
        """Offset of so many bytes that nothing else of this request has."""
        offset = self._used
        self._used = aligned(offset + size)
        return offset

    def clear(self) -> None:
        """Give all of it to the next request."""
        self._used = 0


class SharedRegions:
    """Regions of one kind that one Triton has, used again and again.

    Args:
        make: Makes a region of so many bytes; OSError where the machine has no room for it.
        register: Tells Triton of a region.
        unregister: Tells it to let go of a region, by its name.
        max_bytes: Most that they take together.
    """

    def __init__(
        self,
        make: Callable[[int], Region],
        register: Callable[[Region], Awaitable[None]],
        unregister: Callable[[str], Awaitable[None]],
        max_bytes: int,
    ) -> None:
        self._make = make
        self._register = register
        self._unregister = unregister
        self._max_bytes = max_bytes
        self._bytes = 0
        self._free: list[Region] = []
        self._left: deque[tuple[float, Region]] = deque()
        self._known: set[Region] = set()
        self._orphans: deque[tuple[float, str]] = deque()

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
            made = self._make(rounded)
        except BaseException:
            self._bytes -= rounded
            raise
        try:
            await self._register(made)
        except BaseException as error:
            if isinstance(error, PlaneError) and error.code is not Code.DEADLINE_EXCEEDED:
                made.close()
                self._bytes -= rounded
            else:
                # Nobody waited for what it says: it may have it.
                self._set_aside(made)
            raise
        made.hide()
        self._known.add(made)
        return made

    def adopt(self, names: Iterable[str]) -> None:
        """Have Triton let go of regions whose owner has ended, once no request is at them."""
        self._orphans.extend((monotonic() + LEFT_S, name) for name in names)

    def give_back(self, region: Region) -> None:
        """Its request is over."""
        if region in self._known:
            region.clear()
            self._free.append(region)
        else:
            region.close()

    def leave(self, region: Region) -> None:
        """Its request was left, and Triton may still be at it: nobody is to use it again."""
        if region in self._known:
            self._known.discard(region)
            self._set_aside(region)
        else:
            region.leave()
            region.close()

    def forget(self) -> None:
        """Triton has started anew and knows none of them any more."""
        for region in (*self._free, *(region for _, region in self._left)):
            region.close()
        self._free.clear()
        self._left.clear()
        self._orphans.clear()
        self._known.clear()
        self._bytes = 0

    async def close(self) -> None:
        """Take them back; what was left a short time ago stays with Triton."""
        while self._free:
            await self._drop(self._free.pop())
        await self._sweep()
        self._left.clear()
        self.forget()

    def _set_aside(self, region: Region) -> None:
        region.leave()
        self._left.append((monotonic() + LEFT_S, region))

    async def _drop(self, region: Region) -> None:
        self._known.discard(region)
        self._bytes -= region.size
        await self._part(region)

    async def _sweep(self) -> None:
        while self._left and self._left[0][0] <= monotonic():
            _, region = self._left.popleft()
            self._bytes -= region.size
            await self._part(region)
        while self._orphans and self._orphans[0][0] <= monotonic():
            _, name = self._orphans.popleft()
            with suppress(PlaneError):
                await self._unregister(name)
            forget_orphan(name)

    async def _part(self, region: Region) -> None:
        try:
            with suppress(PlaneError):  # One that is away has nothing to let go of.
                await self._unregister(region.name)
        finally:
            region.close()


def aligned(size: int) -> int:
    """The next offset at which a tensor may begin."""
    return -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
