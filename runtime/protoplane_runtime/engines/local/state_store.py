"""The database of a state store: groups of changes go in, and entries come out. It all blocks.

A deleted key stays as a row without a value, so that "what changed since" is one look at an index;
the oldest of these go when they are many.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import KeyMatcher
from protoplane_runtime.engines.local.schema import connect, migrate, transaction
from protoplane_runtime.engines.state import Deleted, Entry, Snapshot, conflict

MAX_DELETED = 10_000
"""Deleted keys that are remembered; there may be twice as many between two sweeps."""

LOCK_TIMEOUT_S = 10.0
"""Seconds that a writer waits for those of other processes."""

_MIGRATIONS = (
    """
    CREATE TABLE store (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL,           -- greatest that was ever given
        floor INTEGER NOT NULL,              -- greatest of a deletion that is forgotten
        deleted INTEGER NOT NULL             -- how many are remembered
    );
    CREATE TABLE entry (
        key TEXT PRIMARY KEY,
        revision INTEGER NOT NULL UNIQUE,
        value BLOB,                          -- none where it was deleted
        expires_ns INTEGER,
        expired INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX entry_expiry ON entry (expires_ns) WHERE expires_ns IS NOT NULL;
    CREATE INDEX entry_deleted ON entry (revision) WHERE value IS NULL;
    INSERT INTO store VALUES (1, 0, 0, 0);
    """,
)


@dataclass(frozen=True, slots=True)
class Write:
    """A change that is asked for.

    Attributes:
        key: Whose value.
        value: The new one; ``None`` to take it away.
        expected: Revision that the key must have; ``None`` for any.
        ttl_s: Seconds after which the value goes.
    """

    key: str
    value: bytes | None
    expected: int | None = None
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Recent:
    """What changed after a revision.

    Attributes:
        revision: The newest that there is.
        changes: What changed; ``None`` where some of it is forgotten.
        expires_ns: When the next entry goes by itself; ``None`` for never.
    """

    revision: int
    changes: Sequence[Entry | Deleted] | None
    expires_ns: int | None


class Writing:
    """Writes groups of changes; for one thread.

    Args:
        path: The database; made where there is none.
        max_deleted: Deleted keys that are remembered.

    Raises:
        OSError, sqlite3.Error, PlaneError: It cannot be used.
    """

    def __init__(self, path: Path, max_deleted: int = MAX_DELETED) -> None:
        self._max_deleted = max_deleted
        self._lock = os.open(
            path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            self._connection = connect(path)
            try:
                with self._turn(path):
                    migrate(self._connection, path, _MIGRATIONS)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._path = path
        self._inode = path.stat().st_ino

    def write(self, group: Sequence[Write]) -> Sequence[int | PlaneError]:
        """Do a group of changes in their order and at once: all are on disk when this returns.

        An empty group only takes away what has expired.

        Returns:
            For each its revision, 0 where there was nothing to take away, or why it was not done.

        Raises:
            OSError, sqlite3.Error, PlaneError: None was done.
        """
        connection = self._connection
        with self._turn(self._path):
            self._require_same_file()
            return self._write(connection, group)

    def _write(
        self, connection: sqlite3.Connection, group: Sequence[Write]
    ) -> Sequence[int | PlaneError]:
        with transaction(connection):
            revision, floor, deleted = connection.execute(
                "SELECT revision, floor, deleted FROM store"
            ).fetchone()
            before = revision
            now_ns = time.time_ns()
            expired = connection.execute(
                "SELECT key FROM entry WHERE expires_ns <= ? ORDER BY expires_ns", (now_ns,)
            ).fetchall()
            for (key,) in expired:
                revision += 1
                deleted += 1
                self._delete(key, revision, expired=True)
            done: list[int | PlaneError] = []
            for each in group:
                row = connection.execute(
                    "SELECT revision, value IS NULL FROM entry WHERE key = ?", (each.key,)
                ).fetchone()
                had, was_deleted = row if row is not None else (0, 0)
                found = 0 if was_deleted else had
                if each.expected is not None and each.expected != found:
                    done.append(conflict(each.key, each.expected, found))
                    continue
                if each.value is None and not found:
                    done.append(0)
                    continue
                revision += 1
                if each.value is None:
                    deleted += 1
                    self._delete(each.key, revision, expired=False)
                else:
                    deleted -= was_deleted
                    self._put(each.key, each.value, revision, each.ttl_s, now_ns)
                done.append(revision)
            if deleted > 2 * self._max_deleted:
                floor, deleted = self._forget(floor, deleted)
            if revision != before:
                connection.execute(
                    "UPDATE store SET revision = ?, floor = ?, deleted = ?",
                    (revision, floor, deleted),
                )
        return done

    def close(self) -> None:
        """Give the database back."""
        self._connection.close()
        os.close(self._lock)

    def _require_same_file(self) -> None:
        try:
            gone = self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            gone = True
        if gone:
            raise PlaneError(
                Code.UNAVAILABLE,
                f"{self._path} was removed or replaced while this process used it; restart it",
            )

    def _put(self, key: str, value: bytes, revision: int, ttl_s: float | None, now_ns: int) -> None:
        expires_ns = None if ttl_s is None else now_ns + int(ttl_s * 1e9)
        self._connection.execute(
            "INSERT INTO entry (key, revision, value, expires_ns) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET revision = excluded.revision,"
            " value = excluded.value, expires_ns = excluded.expires_ns, expired = 0",
            (key, revision, value, expires_ns),
        )

    def _delete(self, key: str, revision: int, *, expired: bool) -> None:
        self._connection.execute(
            "UPDATE entry SET revision = ?, value = NULL, expires_ns = NULL, expired = ?"
            " WHERE key = ?",
            (revision, expired, key),
        )

    def _forget(self, floor: int, deleted: int) -> tuple[int, int]:
        (last,) = self._connection.execute(
            "SELECT revision FROM entry WHERE value IS NULL"
            " ORDER BY revision DESC LIMIT 1 OFFSET ?",
            (self._max_deleted,),
        ).fetchone()
        gone = self._connection.execute(
            "DELETE FROM entry WHERE value IS NULL AND revision <= ?", (last,)
        ).rowcount
        return max(floor, last), deleted - gone

    @contextmanager
    def _turn(self, path: Path) -> Generator[None]:
        """Hold the lock of the writers: SQLite's own waits in steps that grow to 100 ms."""
        until = time.monotonic() + LOCK_TIMEOUT_S
        pause_s = 0.000_05
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise PlaneError(
                        Code.UNAVAILABLE,
                        f"another process has held {path} for {LOCK_TIMEOUT_S:g} s; let it go on, "
                        "or end it",
                    ) from None
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.001)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


class Reading:
    """Reads entries; for one thread.

    Args:
        path: The database, which has its tables.

    Raises:
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)

    def get(self, key: str) -> Entry | None:
        """The entry of a key, if it has a value that has not expired."""
        row = self._connection.execute(
            "SELECT key, value, revision, expires_ns FROM entry"
            " WHERE key = ? AND value IS NOT NULL AND (expires_ns IS NULL OR expires_ns > ?)",
            (key, time.time_ns()),
        ).fetchone()
        return None if row is None else Entry(*row)

    def snapshot(self, match: KeyMatcher) -> Snapshot:
        """All entries that match, as of one moment."""
        with self._moment() as connection:
            (revision,) = connection.execute("SELECT revision FROM store").fetchone()
            cursor = connection.execute(
                "SELECT key, value, revision, expires_ns FROM entry WHERE value IS NOT NULL"
                " AND (expires_ns IS NULL OR expires_ns > ?) ORDER BY key",
                (time.time_ns(),),
            )
            return Snapshot(revision, tuple(Entry(*row) for row in cursor if match.matches(row[0])))

    def after(self, place: int) -> Recent:
        """What changed after a revision."""
        with self._moment() as connection:
            revision, floor = connection.execute("SELECT revision, floor FROM store").fetchone()
            (expires_ns,) = connection.execute(
                "SELECT min(expires_ns) FROM entry WHERE expires_ns IS NOT NULL"
            ).fetchone()
            if not floor <= place <= revision:
                return Recent(revision, None, expires_ns)
            rows = connection.execute(
                "SELECT key, value, revision, expires_ns, expired FROM entry"
                " WHERE revision > ? ORDER BY revision",
                (place,),
            )
            return Recent(revision, [_change(*row) for row in rows], expires_ns)

    def close(self) -> None:
        """Give the database back."""
        self._connection.close()

    @contextmanager
    def _moment(self) -> Generator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("COMMIT")


def _change(
    key: str, value: bytes | None, revision: int, expires_ns: int | None, expired: int
) -> Entry | Deleted:
    if value is None:
        return Deleted(key, revision, bool(expired))
    return Entry(key, value, revision, expires_ns)
