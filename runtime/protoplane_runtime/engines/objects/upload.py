"""A large object on its way into a cloud, in parts that nobody sees before the last is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import obstore

from protoplane_runtime.engines.objects.pieces import PIECE_BYTES, settled

if TYPE_CHECKING:
    from obstore.store import ObjectStore as CloudStore

PART_BYTES = 16 * PIECE_BYTES
"""Bytes of a part; an upload has 10,000 at most (S3), so an object has 156 GiB."""

MAX_PARTS_AT_ONCE = 2
"""How many are sent at the same time."""

_ABORT_TIMEOUT_S = 10.0


class _AbandonedError(Exception):
    """Tells obstore that no more comes, so that it takes back the parts that are there."""


async def upload(
    store: CloudStore,
    key: str,
    pieces: AsyncGenerator[bytes, None],
    attributes: dict[str, str],
    translated: Callable[[], AbstractContextManager[None]],
) -> str:
    """Write an object as a multipart upload; its etag.

    When ``pieces`` fails, or this is cancelled, the upload is aborted before the error goes on:
    obstore aborts one whose source raises, but not one that is cancelled, so it never is.

    Raises:
        PlaneError: As ``translated`` makes it.
    """
    handed: asyncio.Queue[bytes | None] = asyncio.Queue(1)
    abandoned = asyncio.Event()

    async def source() -> AsyncGenerator[bytes, None]:
        while (piece := await handed.get()) is not None:
            yield piece
        if abandoned.is_set():
            raise _AbandonedError

    async def send() -> str:
        with translated():
            result = await obstore.put_async(
                store,
                key,
                source(),
                attributes=attributes,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=MAX_PARTS_AT_ONCE,
            )
        return result["e_tag"] or ""

    sending = asyncio.ensure_future(send())
    try:
        async for piece in pieces:
            await _hand(handed.put(piece), sending)
        await _hand(handed.put(None), sending)
        return await asyncio.shield(sending)
    except BaseException:
        abandoned.set()
        while not handed.empty():
            handed.get_nowait()
        handed.put_nowait(None)
        # A store that is away must not hold up who cancels.
        giving_up = asyncio.get_running_loop().call_later(_ABORT_TIMEOUT_S, sending.cancel)
        try:
            await settled(sending)
        finally:
            giving_up.cancel()
        raise


async def _hand(putting: Coroutine[Any, Any, None], sending: asyncio.Future[str]) -> None:
    """Hand something over, unless there is nobody any more to take it."""
    handing = asyncio.ensure_future(putting)
    try:
        await asyncio.wait((handing, sending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        handing.cancel()
    if sending.done() and not handing.done():
        sending.result()
