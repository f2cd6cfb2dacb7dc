"""The values of the state, as its owner changes them and as others copy them; it does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.state import Deleted, Entry, conflict


class StateTable:
    """Values by key.

    Attributes:
        revision: That of the newest change.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._entries: dict[str, Entry] = {}
        self._expiries: list[tuple[int, str]] = []

    @property
    def next_expiry_ns(self) -> int | None:
        """When the next value may go, in nanoseconds since 1970."""
        return self._expiries[0][0] if self._expiries else None

    def get(self, key: str) -> Entry | None:
        """The value of a key."""
        return self._entries.get(key)

    def put(self, key: str, value: bytes, expected: int | None, expires_ns: int | None) -> Entry:
        """Give a key a value.

        Raises:
            PlaneError: ABORTED; it has another revision than expected.
        """
        self._check(key, expected)
        entry = Entry(key, value, self.revision + 1, expires_ns)
        self._set(entry)
        return entry

    def delete(self, key: str, expected: int | None) -> Deleted | None:
        """Take the value of a key away; ``None`` where it has none.

        Raises:
            PlaneError: ABORTED; it has another revision than expected.
        """
        self._check(key, expected)
        if self._entries.pop(key, None) is None:
            return None
        self.revision += 1
        return Deleted(key, self.revision)

    def expire(self, now_ns: int) -> Sequence[Deleted]:
        """Take away all whose time is up."""
        gone: list[Deleted] = []
        while self._expiries and self._expiries[0][0] <= now_ns:
            expires_ns, key = heappop(self._expiries)
            entry = self._entries.get(key)
            # One that was put anew has another time, or none.
            if entry is not None and entry.expires_ns == expires_ns:
                del self._entries[key]
                self.revision += 1
                gone.append(Deleted(key, self.revision, expired=True))
        return gone

    def matching(self, match: KeyMatcher) -> Sequence[Entry]:
        """The entries that some key expressions match, in the order of the keys."""
        found = (entry for entry in self._entries.values() if match.matches(entry.key))
        return tuple(sorted(found, key=lambda entry: entry.key))

    def apply(self, changes: Iterable[Entry | Deleted]) -> None:
        """Copy what another changed."""
        for change in changes:
            if isinstance(change, Entry):
                self._set(change)
            else:
                self._entries.pop(change.key, None)
                self.revision = change.revision

    def replace(self, revision: int, entries: Iterable[Entry]) -> None:
        """Make these all that there are."""
        self._entries = {entry.key: entry for entry in entries}
        self._expiries = [
            (entry.expires_ns, entry.key)
            for entry in self._entries.values()
            if entry.expires_ns is not None
        ]
        heapify(self._expiries)
        self.revision = revision

    def _set(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self.revision = entry.revision
        if entry.expires_ns is not None:
            heappush(self._expiries, (entry.expires_ns, entry.key))

    def _check(self, key: str, expected: int | None) -> None:
        if expected is not None:
            entry = self._entries.get(key)
            found = entry.revision if entry is not None else 0
            if found != expected:
                raise conflict(key, expected, found)
