"""Bytes on their way: cut into pieces of one size, counted and hashed off the loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import ParamSpec, TypeVar, cast

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.objects.interface import ObjectSource

PIECE_BYTES = 1024 * 1024
"""Bytes of a piece; only the last one of an object is shorter."""

# Below this a piece is hashed sooner than a thread is woken.
_SMALL = 64 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class Digest:
    """The BLAKE2b-256 (RFC 7693) of bytes that come in pieces.

    BLAKE2b is what the entity ids are made with, and the fastest of what Python brings where the
    processor has no instructions for SHA-256.
    """

    __slots__ = ("_hash", "size")

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self.size = 0

    def add(self, piece: bytes) -> None:
        """Take the next piece; call it from a thread for a large one."""
        self._hash.update(piece)
        self.size += len(piece)

    async def add_aside(self, piece: bytes) -> None:
        """Take the next piece without holding up the loop."""
        if len(piece) < _SMALL:
            self.add(piece)
        else:
            await in_thread(self.add, piece)

    @property
    def hex(self) -> str:
        """The digest of all that came."""
        return self._hash.hexdigest()


async def in_thread(do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do something that blocks, in a thread.

    Cancelling waits until it is done, so that what cleans up after it never runs beside it.
    """
    doing = asyncio.ensure_future(asyncio.to_thread(do, *args, **kwargs))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await settled(doing)
        raise


async def settled(doing: asyncio.Future[T]) -> None:
    """Wait until something is over, however it ends; cancelling is heard after that."""
    heard = False
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            heard = True
    if not doing.cancelled():
        doing.exception()  # Seen, so that nobody complains of it.
    if heard:
        raise asyncio.CancelledError


async def pieces_of(source: ObjectSource) -> AsyncGenerator[bytes, None]:
    """Cut a source into pieces of `PIECE_BYTES`; leaving it closes the source.

    Raises:
        PlaneError: INVALID_ARGUMENT; the source gives something other than bytes.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        whole = memoryview(source).cast("B")
        for at in range(0, len(whole), PIECE_BYTES):
            yield bytes(whole[at : at + PIECE_BYTES])
        return
    gathered = bytearray()
    iterator = aiter(source)
    try:
        async for some in iterator:
            # The source is another's, and what it gives may be anything.
            if not isinstance(cast(object, some), (bytes, bytearray, memoryview)):
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"an object is made of bytes, not {type(some).__name__}"
                )
            rest = memoryview(some).cast("B")
            while len(rest) >= PIECE_BYTES - len(gathered):
                fits = PIECE_BYTES - len(gathered)
                yield b"".join((gathered, rest[:fits]))
                gathered.clear()
                rest = rest[fits:]
            gathered += rest
        if gathered:
            yield bytes(gathered)
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()


async def chained(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces of a list, which is emptied on the way, then the rest."""
    head.reverse()
    while head:
        yield head.pop()
    async for piece in rest:
        yield piece


async def checked(
    pieces: AsyncGenerator[bytes, None], digest: Digest, verdict: Callable[[Digest], None]
) -> AsyncGenerator[bytes, None]:
    """Pass pieces on, and before the last one is taken for the end, ask whether all is well."""
    async with aclosing(pieces):
        async for piece in pieces:
            await digest.add_aside(piece)
            yield piece
    verdict(digest)
