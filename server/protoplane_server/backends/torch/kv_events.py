"""Tells a router what the cache of a model holds: the events of ``protoplane.router.v1``.

Events go out in order, one at a time, so that the log has them in order. What happens meanwhile is
joined as far as it can be. Where events cannot be published their numbers are skipped: whoever
follows them sees the hole, and asks for the whole (`KvEvents.state`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protoplane.router.v1 import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    KvEvent,
    KvStateResponse,
    StorageTier,
)
from protoplane_base import PlaneError
from protoplane_server.backends.torch.cache import NamedBlock
from protoplane_server.backends.torch.settings import BLOCK_TOKENS
from protoplane_server.hosting import Host

_log = logging.getLogger("protoplane.server")

MAX_WAITING = 10_000
"""Events that wait for the log; past that they are dropped together."""

PUBLISH_S = 10.0
"""Longest that the log may take for one, in seconds."""

PIECE = 4096
"""Blocks in a piece of the state."""

STATE_VERSION = 1
"""Layout of the pieces."""


@dataclass(frozen=True, slots=True)
class _Stored:
    blocks: list[NamedBlock]


@dataclass(frozen=True, slots=True)
class _Removed:
    hashes: list[int]


@dataclass(frozen=True, slots=True)
class _Cleared:
    pass


class KvEvents:
    """The events of one cache; `run` publishes them, and whoever starts it ends it.

    Args:
        host: The server that the backend is in; ``None`` for nobody to tell.
        worker: Id that a router knows this cache by: one path segment.
    """

    def __init__(self, host: Host | None, worker: str) -> None:
        self.worker = worker
        self.epoch = secrets.token_hex(8)
        self._host = host
        self._last_id = 0
        self._waiting: deque[_Stored | _Removed | _Cleared] = deque()
        self._wake = asyncio.Event()
        self._published = asyncio.Event()
        self._published.set()

    def stored(self, block: NamedBlock) -> None:
        """See `protoplane_server.backends.torch.cache.CacheObserver`."""
        last = self._last()
        if isinstance(last, _Stored) and block.parent == last.blocks[-1].hash:
            last.blocks.append(block)
        else:
            self._add(_Stored([block]))

    def removed(self, block_hash: int) -> None:
        """See `protoplane_server.backends.torch.cache.CacheObserver`."""
        last = self._last()
        if isinstance(last, _Removed):
            last.hashes.append(block_hash)
        else:
            self._add(_Removed([block_hash]))

    def cleared(self) -> None:
        """See `protoplane_server.backends.torch.cache.CacheObserver`; what waits is void by it."""
        self._waiting.clear()
        self._add(_Cleared())

    async def run(self) -> None:
        """Publish what happens; cancelled, it drops what waits."""
        while True:
            await self._wake.wait()
            while self._waiting:
                change = self._waiting.popleft()
                self._last_id += 1
                await self._publish(self._event(change))
            self._wake.clear()
            self._published.set()

    async def settled(self, limit_s: float) -> None:
        """Wait until all is published, or so many seconds have passed."""
        try:
            async with asyncio.timeout(limit_s):
                await self._published.wait()
        except TimeoutError:
            _log.warning("%d events of the KV cache were not published", len(self._waiting))

    def state(self, blocks: Sequence[NamedBlock]) -> list[KvStateResponse]:
        """All blocks that can be found, in pieces; at least one piece.

        Args:
            blocks: The blocks, each after the one before it in its prompt.
        """
        pieces = [blocks[at : at + PIECE] for at in range(0, len(blocks), PIECE)] or [[]]
        return [
            KvStateResponse(
                version=STATE_VERSION,
                epoch=self.epoch,
                event_id=self._last_id,
                block_size=BLOCK_TOKENS,
                tier=StorageTier.STORAGE_TIER_DEVICE,
                block_hashes=[block.hash for block in piece],
                tokens_hashes=[block.tokens_hash for block in piece],
                parent_hashes=[
                    block.hash if block.parent is None else block.parent for block in piece
                ],
                last=number == len(pieces),
            )
            for number, piece in enumerate(pieces, start=1)
        ]

    def _last(self) -> _Stored | _Removed | _Cleared | None:
        return self._waiting[-1] if self._waiting else None

    def _add(self, change: _Stored | _Removed | _Cleared) -> None:
        if self._host is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            _log.warning("%d events of the KV cache were dropped; the log is slow", MAX_WAITING)
            self._waiting.clear()
            self._last_id += 1
        self._waiting.append(change)
        self._published.clear()
        self._wake.set()

    def _event(self, change: _Stored | _Removed | _Cleared) -> KvEvent:
        event = KvEvent(
            worker=self.worker,
            event_id=self._last_id,
            epoch=self.epoch,
            block_size=BLOCK_TOKENS,
            tier=StorageTier.STORAGE_TIER_DEVICE,
        )
        match change:
            case _Stored(blocks):
                event.stored = BlocksStored(
                    parent_hash=blocks[0].parent,
                    start_position=blocks[0].position,
                    block_hashes=[block.hash for block in blocks],
                    tokens_hashes=[block.tokens_hash for block in blocks],
                )
            case _Removed(hashes):
                event.removed = BlocksRemoved(block_hashes=hashes)
            case _Cleared():
                event.cleared = BlocksCleared()
        return event

    async def _publish(self, event: KvEvent) -> None:
        assert self._host is not None
        try:
            async with asyncio.timeout(PUBLISH_S):
                await self._host.publish(event)
        except (PlaneError, TimeoutError) as error:
            _log.warning("event %d of the KV cache was not published: %s", event.event_id, error)
