"""The state plane as a service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

from protoplane.v1 import (
    State,
    StateDeleted,
    StateDeleteRequest,
    StateDeleteResponse,
    StateEntry,
    StateGetRequest,
    StateGetResponse,
    StateListRequest,
    StateListResponse,
    StatePutRequest,
    StatePutResponse,
    StateSnapshot,
    StateWatchRequest,
    StateWatchResponse,
)
from protoplane_base import Code, Context, PlaneError, Timestamp
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, StateStore
from protoplane_server.planes.ground import Ground
from protoplane_server.planes.paging import MAX_PAGE, behind, page_size, page_token, parts

_ENTRY_BYTES = 64
"""What an entry takes beside its key and value, roughly."""


class StatePlane(State):
    """Gives callers of any language the state store of an engine; see `StateStore`."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    @property
    def _store(self) -> StateStore:
        return self._ground.floor.engine.state

    async def get(self, request: StateGetRequest, ctx: Context) -> StateGetResponse:
        """The value of a key."""
        entry = await self._store.get(request.key)
        if entry is None:
            raise PlaneError(Code.NOT_FOUND, f"{request.key} has no value")
        return StateGetResponse(entry=_entry(entry))

    async def put(self, request: StatePutRequest, ctx: Context) -> StatePutResponse:
        """Give a key a value."""
        revision = await self._store.put(
            request.key,
            request.value,
            expected=request.expected_revision,
            ttl_s=None if request.ttl is None else request.ttl.total_seconds,
        )
        return StatePutResponse(revision=revision)

    async def delete(self, request: StateDeleteRequest, ctx: Context) -> StateDeleteResponse:
        """Take the value of a key away."""
        existed = await self._store.delete(request.key, expected=request.expected_revision)
        return StateDeleteResponse(existed=existed)

    async def list(self, request: StateListRequest, ctx: Context) -> StateListResponse:
        """A page of what a key expression matches."""
        after = behind(request.page_token)
        most = page_size(request.page_size)
        found = await self._store.list(request.expression or "**")
        left = [entry for entry in found if entry.key > after]
        page = next(self._parts(left, most), left)
        more = len(page) < len(left)
        return StateListResponse(
            entries=[_entry(entry) for entry in page],
            next_page_token=page_token(page[-1].key) if more else "",
        )

    async def watch(
        self, request: StateWatchRequest, ctx: Context
    ) -> AsyncIterator[StateWatchResponse]:
        """Follow what a key expression matches."""
        async with aclosing(self._store.watch(request.expression or "**")) as changes:
            async for change in changes:
                if isinstance(change, Snapshot):
                    for response in self._snapshot(change):
                        yield response
                elif isinstance(change, Entry):
                    yield StateWatchResponse(entry=_entry(change))
                else:
                    yield StateWatchResponse(deleted=_deleted(change))

    def _snapshot(self, snapshot: Snapshot) -> Iterator[StateWatchResponse]:
        pages = [*self._parts(snapshot.entries, MAX_PAGE)] or [[]]
        for number, page in enumerate(pages, 1):
            yield StateWatchResponse(
                snapshot=StateSnapshot(
                    revision=snapshot.revision,
                    entries=[_entry(entry) for entry in page],
                    more=number < len(pages),
                )
            )

    def _parts(self, entries: Sequence[Entry], most: int) -> Iterator[Sequence[Entry]]:
        return parts(entries, _size, self._ground.max_bytes, most)


def _size(entry: Entry) -> int:
    return len(entry.key) + len(entry.value) + _ENTRY_BYTES


def _entry(entry: Entry) -> StateEntry:
    at = entry.expires_ns
    return StateEntry(
        key=entry.key,
        value=entry.value,
        revision=entry.revision,
        expires_at=None if at is None else Timestamp(*divmod(at, 1_000_000_000)),
    )


def _deleted(deleted: Deleted) -> StateDeleted:
    return StateDeleted(key=deleted.key, revision=deleted.revision, expired=deleted.expired)
