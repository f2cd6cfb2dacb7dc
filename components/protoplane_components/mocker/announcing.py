"""From a cache's blocks to the KV events of a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Announcer(Protocol):
    """What publishes KV events, such as `protoplane_components.kv_router.worker.KvWorker`."""

    def stored(
        self, blocks: Sequence[int], tokens_hashes: Sequence[int], *, parent: int | None = None
    ) -> None:
        """Tell that blocks are there, which follow each other."""
        ...

    def removed(self, blocks: Sequence[int]) -> None:
        """Tell that blocks are gone."""
        ...

    def cleared(self) -> None:
        """Tell that all blocks are gone."""
        ...


class KvEvents:
    """Tells what happens in a cache, and adds what the cache does not know: hashes of the tokens.

    Args:
        announcer: Who publishes it.
    """

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer
        # By sequence hash, the hash of the tokens alone and how many requests are under way
        # with it: only those can store it.
        self._tokens: dict[int, tuple[int, int]] = {}

    def begin(self, hashes: Sequence[int], tokens_hashes: Sequence[int]) -> None:
        """A request with these blocks comes."""
        for block, tokens in zip(hashes, tokens_hashes, strict=True):
            _, requests = self._tokens.get(block, (tokens, 0))
            self._tokens[block] = (tokens, requests + 1)

    def end(self, hashes: Sequence[int]) -> None:
        """That request is over."""
        for block in hashes:
            tokens, requests = self._tokens[block]
            if requests == 1:
                del self._tokens[block]
            else:
                self._tokens[block] = (tokens, requests - 1)

    def stored(self, parent: int | None, hashes: Sequence[int]) -> None:
        """See `protoplane_components.mocker.blocks.CacheObserver.stored`."""
        tokens = [self._tokens[block][0] for block in hashes]
        self._announcer.stored(hashes, tokens, parent=parent)

    def removed(self, hashes: Sequence[int]) -> None:
        """See `protoplane_components.mocker.blocks.CacheObserver.removed`."""
        self._announcer.removed(hashes)

    def cleared(self) -> None:
        """See `protoplane_components.mocker.blocks.CacheObserver.cleared`."""
        self._announcer.cleared()
