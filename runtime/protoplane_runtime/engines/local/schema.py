"""The database of a log: its tables, and how it and others are opened and brought up to date."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from protoplane_base import Code, PlaneError

BUSY_TIMEOUT_S = 10.0
"""Seconds to wait for another program that uses the database."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE log (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        epoch INTEGER NOT NULL,
        purged INTEGER NOT NULL DEFAULT 0,   -- greatest sequence that was ever deleted
        reserved INTEGER NOT NULL DEFAULT 0  -- up to here, ephemeral events may have them
    );
    CREATE TABLE retention (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        prefix TEXT NOT NULL UNIQUE,         -- '' for keys that no other rule covers
        max_age_s REAL,
        max_events INTEGER,
        max_bytes INTEGER,
        events INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        floor INTEGER NOT NULL DEFAULT 0,    -- greatest sequence deleted under this rule
        swept INTEGER NOT NULL DEFAULT 0     -- nothing of this rule is left up to here
    );
    CREATE TABLE key (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        text TEXT NOT NULL UNIQUE,
        rule INTEGER NOT NULL REFERENCES retention
    );
    CREATE TABLE type (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE publisher (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY,
        key INTEGER NOT NULL,
        type INTEGER NOT NULL,
        time_ns INTEGER NOT NULL,
        size INTEGER NOT NULL,
        publisher INTEGER,
        number INTEGER,
        data BLOB NOT NULL,
        json TEXT NOT NULL
    );
    CREATE UNIQUE INDEX event_publication ON event (publisher, number)
        WHERE publisher IS NOT NULL;
    INSERT INTO retention (prefix, max_bytes) VALUES ('', 1073741824);  -- 1 GiB
    """,
)
"""What brings a database from one version to the next; their number is its version."""

VERSION = len(MIGRATIONS)
"""Version of the tables that this code works with."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database for one thread, without touching its tables.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    connection = sqlite3.connect(
        path,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        cached_statements=256,
        check_same_thread=False,
    )
    try:
        _use_wal(connection)
        # In WAL mode this is one fsync of the log at every commit.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead; SQLite waits for nobody in this, whatever its timeout, so this does."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= until:
                raise
            time.sleep(0.005)
        else:
            return


def migrate(
    connection: sqlite3.Connection, path: Path, migrations: Sequence[str] = MIGRATIONS
) -> None:
    """Make the tables, or bring old ones up to date; nothing where they are.

    Args:
        connection: The database.
        path: Its file.
        migrations: What brings it from one version to the next; those of a log by default.

    Raises:
        PlaneError: FAILED_PRECONDITION; a newer Protoplane made them.
        sqlite3.Error: The database cannot be read or written.
    """
    with transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        newest = len(migrations)
        if version > newest:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"{path} has schema version {version}, and this Protoplane knows {newest}; "
                "upgrade Protoplane, or name another folder",
            )
        if version == newest:
            return
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migration "
            "(version INTEGER PRIMARY KEY, applied_ns INTEGER NOT NULL)"
        )
        for number, script in enumerate(migrations[version:], version + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?)", (number, time.time_ns()))
        if version == 0 and migrations is MIGRATIONS:
            # Microseconds: a log made later has a greater epoch.
            connection.execute("INSERT INTO log (one, epoch) VALUES (1, ?)", (_epoch(),))
        connection.execute(f"PRAGMA user_version = {newest:d}")


class transaction:  # noqa: N801  # used like a function
    """A transaction that may write from its first moment; an error rolls it back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        # SQLite has done it by itself after some errors, such as that of a full disk.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _epoch() -> int:
    return time.time_ns() // 1_000


def _statements(script: str) -> list[str]:
    return [text for text in script.split(";") if text.strip()]
