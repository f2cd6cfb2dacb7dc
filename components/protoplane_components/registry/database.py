"""The database: opened, brought up to date, and used one transaction at a time."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, Self, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_runtime.engines.local.faults import from_os
from protoplane_runtime.engines.objects.pieces import settled

_T = TypeVar("_T")

_BUSY_S = 30.0
_CONNECT_S = 10.0
_LOCKED_S = 0.02
_TRIES = 5
_READING = "protoplane_reading"
# Any number that others do not take for their own locks: "registry" in ASCII.
_MIGRATION_LOCK = 0x7265676973747279 >> 1

# It tells at each start that there is nothing to do.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)


class Database:
    """A database whose tables are those of `tables`; close it when done.

    Transactions that change something are serialised in SQLite, and by the row of a model in
    PostgreSQL. Cancelling one waits until it is done: it takes no longer than `_BUSY_S`.
    """

    def __init__(self, engine: AsyncEngine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack
        reading = engine.execution_options(**{_READING: True})
        self._reads = async_sessionmaker(reading, expire_on_commit=False)
        self._writes = async_sessionmaker(engine, expire_on_commit=False)

    @classmethod
    async def open(cls, url: URL) -> Self:
        """Open a database, and take the steps of `migrations` that it lacks.

        Any number of processes may open one at a time.

        Raises:
            PlaneError: UNAVAILABLE where it cannot be reached, FAILED_PRECONDITION where a newer
                registry has changed it, PERMISSION_DENIED where its folder cannot be made.
            MissingExtraError: Its driver is not installed.
        """
        stack = ExitStack()
        try:
            if url.get_backend_name() == "sqlite":
                engine = _sqlite(_file(url, stack))
            else:
                engine = create_async_engine(
                    url,
                    pool_pre_ping=True,
                    connect_args={"timeout": _CONNECT_S, "command_timeout": _BUSY_S},
                )
        except ModuleNotFoundError as error:
            raise MissingExtraError("registry", f"a database at {url.drivername}:") from error
        database = cls(engine, stack)
        try:
            await database._up_to_date()
        except BaseException:
            await database.close()
            raise
        return database

    async def _up_to_date(self) -> None:
        end = monotonic() + _BUSY_S
        while True:
            try:
                with _translated():
                    async with self._engine.begin() as connection:
                        await connection.run_sync(_migrate)
            except PlaneError as error:
                if not _locked(error) or monotonic() > end:
                    raise
                await asyncio.sleep(_LOCKED_S)
            else:
                return

    async def close(self) -> None:
        """Close all connections; twice does nothing more."""
        await self._engine.dispose()
        self._stack.close()

    @property
    def engine(self) -> AsyncEngine:
        """What it goes through."""
        return self._engine

    async def read(self, do: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
        """Run something that changes nothing as one transaction.

        Raises:
            PlaneError: UNAVAILABLE where the database is away, and what ``do`` raises.
        """
        return await _whole(_transaction(self._reads, do))

    async def change(self, do: Callable[[AsyncSession], Awaitable[_T]]) -> _T:
        """Run something as one transaction; again where another process was faster.

        Args:
            do: What to do; it may run several times.

        Raises:
            PlaneError: UNAVAILABLE where the database is away, ABORTED where others are faster
                time and again, and what ``do`` raises.
        """
        for _ in range(_TRIES):
            try:
                return await _whole(_transaction(self._writes, do))
            except IntegrityError:
                continue
        raise PlaneError(
            Code.ABORTED, f"others changed the same {_TRIES} times meanwhile; try again"
        )


async def _transaction(
    sessions: async_sessionmaker[AsyncSession], do: Callable[[AsyncSession], Awaitable[_T]]
) -> _T:
    with _translated():
        async with sessions() as session, session.begin():
            return await do(session)


async def _whole(work: Coroutine[Any, Any, _T]) -> _T:
    """A driver that is cancelled in its middle loses its connection, so none is."""
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await settled(doing)
        raise


def _configuration() -> Config:
    """Alembic's settings: where the steps are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
    config = _configuration()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"the registry's database was changed by a newer version ({error}); update Protoplane",
        ) from error


def _file(url: URL, stack: ExitStack) -> URL:
    """The database as a file; one in memory is a file, too, because its connections share it."""
    if url.database == ":memory:":
        folder = stack.enter_context(TemporaryDirectory(prefix="protoplane-registry-"))
        return url.set(database=str(Path(folder) / "registry.sqlite"))
    file = Path(url.database or "")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os(error, file.parent) from error
    return url


def _sqlite(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": _BUSY_S})
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _: object) -> None:
    # sqlite3 is to begin no transaction by itself: it would not begin one for what makes tables.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys=ON", "journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get(_READING)
    # One that will write must not read first what another is about to change.
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _locked(error: PlaneError) -> bool:
    """Whether another turned a new file of SQLite to its log: for that nobody is made to wait."""
    cause = error.__cause__
    fault = cause.orig if isinstance(cause, DBAPIError) else None
    return (
        isinstance(fault, sqlite3.OperationalError)
        and fault.sqlite_errorcode == sqlite3.SQLITE_BUSY
    )


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error) or type(error).__name__
        raise PlaneError(
            Code.UNAVAILABLE,
            f"the registry's database does not answer: {reason.splitlines()[0]}; see "
            "that it runs, and that its URL is right",
        ) from error
