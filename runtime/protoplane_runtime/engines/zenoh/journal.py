"""Which durable events of a node's log are its own, and how far its copies of others' go.

A copy is in the log as a publication of its origin, by its number there, so it is there once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from protoplane_runtime.engines.interface import Publication
from protoplane_runtime.engines.local.faults import translated
from protoplane_runtime.engines.local.schema import connect
from protoplane_runtime.engines.zenoh.wire import Carried, Page

COPY = "\x1fzenoh/"
"""What the publisher of a copy begins with."""

_PAGE_EVENTS = 1024
_PAGE_BYTES = 512 * 1024

_OWN = (
    "(publisher IS NULL OR publisher NOT IN"
    " (SELECT id FROM publisher WHERE text GLOB char(31) || 'zenoh/*'))"
)
_NEWEST = f"SELECT sequence FROM event WHERE {_OWN} ORDER BY sequence DESC LIMIT 1"  # noqa: S608
_AFTER = (
    "SELECT sequence, key.text, type.text, data, json FROM event"  # noqa: S608
    " JOIN key ON key.id = event.key JOIN type ON type.id = event.type"
    f" WHERE sequence > ? AND {_OWN} ORDER BY sequence"
)
_POSITIONS = (
    "SELECT text, (SELECT max(number) FROM event WHERE publisher = publisher.id)"
    " FROM publisher WHERE text GLOB char(31) || 'zenoh/*'"
)

_POSITIONS_AT = (
    "SELECT text, (SELECT max(number) FROM event WHERE publisher = publisher.id AND sequence <= ?)"
    " FROM publisher WHERE text GLOB char(31) || 'zenoh/*'"
)
_BETWEEN = f"SELECT sequence FROM event WHERE sequence BETWEEN ? AND ? AND {_OWN}"  # noqa: S608
_NEXT = f"SELECT sequence FROM event WHERE sequence > ? AND {_OWN} ORDER BY sequence LIMIT 1"  # noqa: S608
_LAST_BEFORE = "SELECT sequence FROM event WHERE time_ns < ? ORDER BY sequence DESC LIMIT 1"
_COUNTS = (
    "SELECT key.text, count(*) FROM event JOIN key ON key.id = event.key"  # noqa: S608
    f" WHERE sequence > ? AND {_OWN} GROUP BY event.key"
)

_POSITIONS_FILE = TypeAdapter(dict[str, int])


def copy_of(origin: str, number: int) -> Publication:
    """The publication as which an event of another node is in the log."""
    return Publication(COPY + origin, number)


class Journal:
    """Reads the database of a node's log; from any thread.

    Args:
        path: The database, which has its tables.
        origin: The node's own log.
    """

    def __init__(self, path: Path, origin: str) -> None:
        self._path = path
        self._origin = origin
        self._beside = path.with_name("positions.json")
        self._turn = threading.Lock()
        with translated(path):
            self._connection: sqlite3.Connection | None = connect(path)

    def newest(self) -> int:
        """Place of the newest durable event of its own; 0 where there is none.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            row = self._execute(_NEWEST).fetchone()
        return row[0] if row is not None else 0

    def positions(self) -> dict[str, int]:
        """The greatest number that was here of each origin, as far as that is known.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            rows: list[tuple[str, int | None]] = self._execute(_POSITIONS).fetchall()
        found = self._remembered()
        for text, number in rows:
            origin = text.removeprefix(COPY)
            found[origin] = max(number or 0, found.get(origin, 0))
        return found

    def remember(self, positions: Mapping[str, int]) -> None:
        """Keep the greatest numbers, also of copies that are deleted later.

        Raises:
            PlaneError: They cannot be written.
        """
        with translated(self._path):
            unfinished = self._beside.with_suffix(".new")
            unfinished.write_bytes(_POSITIONS_FILE.dump_json(dict(positions)))
            unfinished.replace(self._beside)

    def _remembered(self) -> dict[str, int]:
        try:
            return _POSITIONS_FILE.validate_json(self._beside.read_bytes())
        except (FileNotFoundError, ValidationError):
            return {}  # Then what was deleted comes once more, where its node still has it.

    def page(self, after: int) -> Page:
        """The next of its own durable events after a place.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            self._execute("BEGIN")
            try:
                (deleted,) = self._execute("SELECT purged FROM log").fetchone()
                rows = self._execute(_AFTER, after)
                events: list[Carried] = []
                size, end, more = 0, after, False
                for sequence, key, type_, data, json in rows:
                    if len(events) == _PAGE_EVENTS or size > _PAGE_BYTES:
                        more = True
                        break
                    events.append(Carried(self._origin, sequence, end, key, type_, data, json))
                    end = sequence
                    size += len(data) + len(json)
                rows.close()
            finally:
                self._execute("ROLLBACK")
        return Page(events, end, deleted, more)

    def own(self, first: int, last: int) -> frozenset[int]:
        """Which events of a range are its own and durable.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            return frozenset(sequence for (sequence,) in self._execute(_BETWEEN, first, last))

    def before_next(self, after: int) -> int:
        """The last place after which the same of its own durable events follow as after a place.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            (deleted,) = self._execute("SELECT purged FROM log").fetchone()
            if deleted > after:
                return after  # Who reads from here on is to be told.
            row = self._execute(_NEXT, after).fetchone()
            if row is None:
                row = self._execute("SELECT max(sequence) + 1 FROM event").fetchone()
        return max(after, (row[0] or 0) - 1)

    def last_before(self, time_ns: int) -> int:
        """Place of the last durable event of anybody accepted before a time; 0 for none.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            row = self._execute(_LAST_BEFORE, time_ns).fetchone()
        return row[0] if row is not None else 0

    def counts(self, after: int) -> list[tuple[str, int]]:
        """How many of its own durable events there are of each key, after a place.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            return self._execute(_COUNTS, after).fetchall()

    def places(self, at: int) -> dict[str, int]:
        """The greatest number of each other origin that was here by a place, as far as it is kept.

        Raises:
            PlaneError: The database cannot be read.
        """
        with self._turn, translated(self._path):
            rows: list[tuple[str, int | None]] = self._execute(_POSITIONS_AT, at).fetchall()
        return {text.removeprefix(COPY): number or 0 for text, number in rows}

    def close(self) -> None:
        """Close the database; twice does nothing more."""
        with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _execute(self, statement: str, *values: int) -> sqlite3.Cursor:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the log is closed")
        return self._connection.execute(statement, values)
