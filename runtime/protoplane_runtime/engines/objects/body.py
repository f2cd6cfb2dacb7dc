"""An object while it is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectInfo
from protoplane_runtime.engines.objects.pieces import Digest


class ObjectBody:
    """The bytes of an object, or of a part of it, in pieces of about a megabyte.

    Once the last piece of a whole object is taken, its digest is checked; so what comes is good
    only when the iteration ends by itself.

    Attributes:
        info: The object.
        start: First byte that comes.
        end: Byte before which it ends.
    """

    __slots__ = ("_digest", "_left", "_pieces", "end", "info", "start")

    def __init__(
        self, info: ObjectInfo, pieces: AsyncIterator[bytes], start: int, end: int
    ) -> None:
        self.info = info
        self.start = start
        self.end = end
        self._pieces = pieces
        self._left = end - start
        whole = start == 0 and end == info.size
        self._digest = Digest() if whole and info.digest is not None else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._check()
            raise
        self._left -= len(piece)
        if self._digest is not None:
            await self._digest.add_aside(piece)
        return piece

    async def read(self) -> bytes:
        """All that is left, in one piece; its size is not bounded.

        Raises:
            PlaneError: As reading does.
        """
        return b"".join([piece async for piece in self])

    def _check(self) -> None:
        if self._left:
            raise PlaneError(
                Code.DATA_LOSS,
                f"{self.info.key} should have {self.end - self.start} bytes from {self.start} on, "
                f"and {self._left} of them are missing; write it anew",
            )
        if self._digest is not None and self._digest.hex != self.info.digest:
            raise PlaneError(
                Code.DATA_LOSS,
                f"{self.info.key} was written with the digest {self.info.digest} and is read with "
                f"{self._digest.hex}; write it anew",
            )
