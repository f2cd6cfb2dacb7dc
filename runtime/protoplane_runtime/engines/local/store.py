"""Durable events in the database: appending a group of them, and reading them back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.interface import (
    Event,
    EventId,
    KeyStats,
    LogStats,
    Publication,
)
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.local import retention
from protoplane_runtime.engines.local.schema import connect, transaction

MAX_CHUNK = 2048
"""Most events that are read at once."""

EVENT_OVERHEAD_BYTES = 40
"""What an event takes in the database beside its data and JSON, roughly."""

_MAX_INTERNED = 65_536
_SCANNED = 4 * MAX_CHUNK
_ROWS_FETCHED = 128
_CHUNK_BYTES = 512 * 1024
# One statement for many rows: Python lets go of its lock once a statement, and a busy event loop
# takes its time to give it back.
_ROWS_AT_ONCE = (64, 8, 1)
# Where fewer events than one in so many match, their keys are looked at before the rest of them.
_FEW = 4
_FEW_OF = 512
_MAX_REMEMBERED = 1024
# A column takes as long as all else that is done with a row in Python, so these two are one.
_TYPE_BITS = 23
_TYPE_MASK = (1 << _TYPE_BITS) - 1
_MAX_IDS = {"key": 1 << 63 - _TYPE_BITS, "type": 1 << _TYPE_BITS}
_ROW: Final = f"sequence, (key << {_TYPE_BITS}) | type, data, json, time_ns"
_SELECT = (
    f"SELECT {_ROW} FROM event"  # noqa: S608
    " WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?"
)
_SELECT_AMONG = (
    f"SELECT {_ROW} FROM event WHERE sequence > ?"  # noqa: S608
    " AND sequence <= ? AND key IN (SELECT value FROM json_each(?)) ORDER BY sequence LIMIT ?"
)
_COLUMNS: Final = "sequence, key, type, time_ns, size, publisher, number, data, json"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a log has used up.

    Attributes:
        epoch: Its epoch.
        last: Greatest sequence of a durable event, kept or not.
        reserved: Sequences up to here may have been given to ephemeral events.
    """

    epoch: int
    last: int
    reserved: int


class Appender:
    """Appends groups of events; only in the thread that writes, within a turn of the ring.

    Args:
        path: The database, which has its tables.
    """

    def __init__(self, path: Path) -> None:
        self.connection = connect(path)
        self._keys: dict[str, tuple[int, int]] = {}
        self._types: dict[str, int] = {}
        self._publishers: dict[str, int] = {}
        self._rules: dict[str, int] = {}

    def bounds(self) -> Bounds:
        """What the log has used up."""
        epoch, purged, reserved, last = self.connection.execute(
            "SELECT epoch, purged, reserved, (SELECT max(sequence) FROM event) FROM log"
        ).fetchone()
        return Bounds(epoch, max(purged, last or 0), reserved)

    def forget(self) -> None:
        """Forget what was interned: another process dropped some of it."""
        self._keys.clear()
        self._rules.clear()
        self._publishers.clear()

    def known(self, publications: Sequence[Publication], epoch: int) -> dict[Publication, EventId]:
        """Those that are in the log already, with the ids that they got."""
        found: dict[Publication, EventId] = {}
        for publication in publications:
            row = self.connection.execute(
                "SELECT sequence FROM event WHERE publisher ="
                " (SELECT id FROM publisher WHERE text = ?) AND number = ?",
                (publication.publisher, publication.number),
            ).fetchone()
            if row is not None:
                found[publication] = EventId(epoch, row[0])
        return found

    def append(self, events: Sequence[Event], names: Sequence[Publication | None]) -> None:
        """Append events, on disk when this returns; all of them, or none.

        Raises:
            sqlite3.Error: The database refuses.
            PlaneError: RESOURCE_EXHAUSTED; there were more keys than can be told apart.
        """
        try:
            with transaction(self.connection):
                self._append(events, names)
        except BaseException:
            # What was interned in it is gone with the transaction.
            self.forget()
            self._types.clear()
            raise

    def reserve(self, sequence: int) -> None:
        """Note that sequences up to this one may be used by events that are not on disk."""
        with transaction(self.connection):
            self.connection.execute("UPDATE log SET reserved = max(reserved, ?)", (sequence,))

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def _append(self, events: Sequence[Event], names: Sequence[Publication | None]) -> None:
        keys = self._intern_keys({event.key for event in events})
        types = self._types
        totals: dict[int, list[int]] = {}
        rows: list[tuple[object, ...]] = []
        for event, name in zip(events, names, strict=True):
            data, json, type_ = event.data, event.json, event.type
            identity, rule = keys[event.key]
            type_id = types.get(type_)
            if type_id is None:
                type_id = self._intern("type", types, type_)
            publisher = number = None
            if name is not None:
                publisher = self._publishers.get(name.publisher)
                if publisher is None:
                    publisher = self._intern("publisher", self._publishers, name.publisher)
                number = name.number
            size = len(data) + len(json) + EVENT_OVERHEAD_BYTES
            total = totals.setdefault(rule, [0, 0])
            total[0] += 1
            total[1] += size
            rows.append(
                (
                    event.id.sequence,
                    identity,
                    type_id,
                    event.time_ns,
                    size,
                    publisher,
                    number,
                    data,
                    json,
                )
            )
        at = 0
        for count in _ROWS_AT_ONCE:
            while len(rows) - at >= count:
                self.connection.execute(
                    _insert(count), tuple(chain.from_iterable(rows[at : at + count]))
                )
                at += count
        for rule, (count, size) in totals.items():
            self.connection.execute(
                "UPDATE retention SET events = events + ?, bytes = bytes + ? WHERE id = ?",
                (count, size, rule),
            )

    def _intern(self, table: str, known: dict[str, int], text: str) -> int:
        execute = self.connection.execute
        row = execute(f"SELECT id FROM {table} WHERE text = ?", (text,)).fetchone()  # noqa: S608
        if row is None:
            row = execute(
                f"INSERT INTO {table} (text) VALUES (?) RETURNING id",  # noqa: S608
                (text,),
            ).fetchone()
        if len(known) >= _MAX_INTERNED:
            known.clear()
        known[text] = _fitting(table, row[0])
        return known[text]

    def _intern_keys(self, texts: set[str]) -> dict[str, tuple[int, int]]:
        known = self._keys
        if len(known) >= _MAX_INTERNED:
            known.clear()
        missing = [text for text in texts if text not in known]
        if missing:
            execute = self.connection.execute
            if not self._rules:
                self._rules = dict(execute("SELECT prefix, id FROM retention").fetchall())
            for text in missing:
                row = execute("SELECT id, rule FROM key WHERE text = ?", (text,)).fetchone()
                if row is None:
                    row = execute(
                        "INSERT INTO key (text, rule) VALUES (?, ?) RETURNING id, rule",
                        (text, retention.rule_of(text, self._rules)),
                    ).fetchone()
                _fitting("key", row[0])
                known[text] = row
        return known


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one look into the database found.

    Attributes:
        events: Events that match, in order.
        end: Place up to which it looked.
        floor: Greatest sequence of a deleted event that might have matched.
        oldest: Sequence of the oldest event that is kept; ``None`` where there is none.
        next: Sequence of the oldest event after the place asked for; ``None`` where there is none.
    """

    events: list[Event]
    end: int
    floor: int
    oldest: int | None
    next: int | None


class Replay:
    """Reads durable events; only in the thread that reads.

    Args:
        path: The database, which has its tables.
        epoch: The log's epoch.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        self._connection = connect(path)
        self._epoch = epoch
        self._keys: dict[int, str] = {}
        self._types: dict[int, str] = {}
        self._seldom: set[KeyMatcher] = set()

    def read(self, match: KeyMatcher, after: int, until: int) -> Chunk:
        """Events after one sequence, up to another, in a chunk of at most `MAX_CHUNK`.

        It goes on to where deleted events may have been, so that these are not read elsewhere.
        """
        execute = self._connection.execute
        # One snapshot, so that what is deleted meanwhile is either read or told of.
        execute("BEGIN")
        try:
            floor = retention.floor(self._connection, match)
            (oldest,) = execute("SELECT min(sequence) FROM event").fetchone()
            (following,) = execute(
                "SELECT min(sequence) FROM event WHERE sequence > ?", (after,)
            ).fetchone()
            until = max(until, floor)
            events: list[Event] = []
            if until <= after:
                until = after
            else:
                events, until = self._matching(match, after, until)
            return Chunk(events, until, floor, oldest, following)
        finally:
            execute("ROLLBACK")

    def first_at(self, time_ns: int) -> int | None:
        """Sequence of the first event that was accepted at some time or later, if there is one."""
        execute = self._connection.execute
        execute("BEGIN")
        try:
            low, last = execute("SELECT min(sequence) - 1, max(sequence) FROM event").fetchone()
            if last is None:
                return None
            high: int = last
            # Times never go back, so halving finds the place without an index on them.
            while low < high:
                middle = (low + high) // 2
                sequence, found_ns = execute(
                    "SELECT sequence, time_ns FROM event WHERE sequence > ?"
                    " ORDER BY sequence LIMIT 1",
                    (middle,),
                ).fetchone()
                if found_ns >= time_ns:
                    high = middle
                else:
                    low = sequence
            following: int | None = execute(
                "SELECT min(sequence) FROM event WHERE sequence > ?", (low,)
            ).fetchone()[0]
            return following
        finally:
            execute("ROLLBACK")

    def stats(self, match: KeyMatcher, after: int) -> LogStats:
        """What is kept of what the expressions match, after a sequence."""
        rows: list[tuple[str, int, int, int, int]] = self._connection.execute(
            "SELECT key.text, count(*), sum(event.size), min(event.sequence), max(event.sequence)"
            " FROM event JOIN key ON key.id = event.key WHERE event.sequence > ?"
            " GROUP BY event.key ORDER BY key.text",
            (after,),
        ).fetchall()
        found = [row for row in rows if match.matches(row[0])]
        if not found:
            return LogStats(0, 0, None, None, None, None, ())
        ends = min(row[3] for row in found), max(row[4] for row in found)
        times = dict(
            self._connection.execute(
                "SELECT sequence, time_ns FROM event WHERE sequence IN (?, ?)", ends
            ).fetchall()
        )
        return LogStats(
            sum(row[1] for row in found),
            sum(row[2] for row in found),
            EventId(self._epoch, ends[0]),
            EventId(self._epoch, ends[1]),
            times.get(ends[0]),
            times.get(ends[1]),
            [KeyStats(*row[:3]) for row in found],
        )

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def _matching(self, match: KeyMatcher, after: int, until: int) -> tuple[list[Event], int]:
        """Events that match, and the place up to which it looked, which may be before all that."""
        execute = self._connection.execute
        if match in self._seldom:
            keys, end = self._keys_after(after, until)
            texts = self._texts("key", self._keys, keys.keys())
            wanted = [key for key in keys if match.matches(texts[key])]
            found, every = sum(keys[key] for key in wanted), sum(keys.values())
            if found * _FEW < every:
                if not wanted:
                    return [], end
                among = f"[{','.join(map(str, wanted))}]"
                cursor = execute(_SELECT_AMONG, (after, end, among, MAX_CHUNK))
                return self._events(cursor, match, end)
            self._seldom.discard(match)
        return self._events(execute(_SELECT, (after, until, MAX_CHUNK)), match, until)

    def _keys_after(self, after: int, until: int) -> tuple[dict[int, int], int]:
        """How many of the next events each key has, and the place of the last of these."""
        rows = self._connection.execute(
            "SELECT key, count(*), max(sequence) FROM (SELECT sequence, key FROM event"
            " WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?) GROUP BY key",
            (after, until, _SCANNED),
        ).fetchall()
        found = {row[0]: row[1] for row in rows}
        return found, until if sum(found.values()) < _SCANNED else max(row[2] for row in rows)

    def _events(
        self, cursor: sqlite3.Cursor, match: KeyMatcher, end: int
    ) -> tuple[list[Event], int]:
        """Events of a query's rows that match, and the place up to which it looked."""
        epoch = self._epoch
        # What a row's key and type are called, and nothing where the key does not match.
        names: dict[int, tuple[str, str] | None] = {}
        events: list[Event] = []
        looked = size = 0
        # Some rows at a time: they are gone before the next ones are made, which is faster.
        while rows := cursor.fetchmany(_ROWS_FETCHED):
            while True:
                try:
                    events += [
                        Event(EventId(epoch, sequence), name[0], name[1], data, json, at)
                        for sequence, kind, data, json, at in rows
                        if (name := names[kind]) is not None
                    ]
                except KeyError:
                    self._name(names, {row[1] for row in rows} - names.keys(), match)
                else:
                    break
            looked += len(rows)
            size += sum([len(row[2]) + len(row[3]) for row in rows])
            few = looked >= _FEW_OF and len(events) * _FEW < looked
            if few:
                if len(self._seldom) >= _MAX_REMEMBERED:
                    self._seldom.clear()
                self._seldom.add(match)
            if few or size > _CHUNK_BYTES or looked == MAX_CHUNK:
                cursor.close()
                return events, rows[-1][0]
        return events, end

    def _name(
        self, names: dict[int, tuple[str, str] | None], kinds: set[int], match: KeyMatcher
    ) -> None:
        keys = self._texts("key", self._keys, {kind >> _TYPE_BITS for kind in kinds})
        types = self._texts("type", self._types, {kind & _TYPE_MASK for kind in kinds})
        for kind in kinds:
            key = keys[kind >> _TYPE_BITS]
            names[kind] = (key, types[kind & _TYPE_MASK]) if match.matches(key) else None

    def _texts(self, table: str, known: dict[int, str], wanted: AbstractSet[int]) -> dict[int, str]:
        missing: AbstractSet[int] = wanted - known.keys()
        if missing:
            if len(known) >= _MAX_INTERNED:
                known.clear()
                missing = wanted
            listed = ",".join(map(str, missing))
            known.update(
                self._connection.execute(
                    f"SELECT id, text FROM {table} WHERE id IN"  # noqa: S608
                    " (SELECT value FROM json_each(?))",
                    (f"[{listed}]",),
                ).fetchall()
            )
        return known


def _fitting(table: str, identity: int) -> int:
    """An id of a table, if readers can tell it from others."""
    most = _MAX_IDS.get(table)
    if most is not None and identity >= most:
        raise PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"this log has had {identity} {table}s, and {most - 1} are the most; "
            "use a new folder for what is published from now on",
        )
    return identity


@lru_cache
def _insert(count: int) -> str:
    places = ",".join("?" * len(_COLUMNS.split(",")))
    return f"INSERT INTO event ({_COLUMNS}) VALUES " + ",".join([f"({places})"] * count)  # noqa: S608
