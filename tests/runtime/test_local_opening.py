"""A log's database: many make one at the same moment, and an old one is brought up to date."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest

from protoplane_base import PlaneError
from protoplane_runtime.engines.local.log import LocalLog
from protoplane_runtime.engines.local.schema import MIGRATIONS, VERSION, connect, migrate

pytestmark = pytest.mark.anyio


def test_databases_that_are_opened_for_the_first_time_by_many(tmp_path: Path) -> None:
    many = 8
    for attempt in range(20):
        path = tmp_path / f"{attempt}.db"
        together = Barrier(many)

        def opened(path: Path = path, together: Barrier = together) -> int:
            together.wait()
            connection = connect(path)
            try:
                migrate(connection, path)
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                return int(version)
            finally:
                connection.close()

        with ThreadPoolExecutor(many) as pool:
            versions = [pool.submit(opened) for _ in range(many)]
            assert [version.result() for version in versions] == [VERSION] * many


async def test_a_second_migration_keeps_what_is_there(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    first = await log.publish("a/b", "x", b"1", '"one"', durable=True)
    await log.close()
    path = tmp_path / "events.db"
    second = (*MIGRATIONS, "ALTER TABLE event ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'")
    with closing(connect(path)) as connection:
        before = connection.execute("SELECT * FROM log").fetchall()
        for _ in range(2):
            migrate(connection, path, second)
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)
            steps = connection.execute("SELECT version FROM migration ORDER BY version")
            assert steps.fetchall() == [(number + 1,) for number in range(VERSION + 1)]
            assert connection.execute("SELECT * FROM log").fetchall() == before
            rows = connection.execute("SELECT sequence, data, json, colour FROM event")
            assert rows.fetchall() == [(first.sequence, b"1", '"one"', "red")]
    with pytest.raises(PlaneError, match=f"version {VERSION + 1}, .* knows {VERSION}; upgrade"):
        await LocalLog.open(tmp_path)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    log = await LocalLog.open(tmp_path)
    first = await log.publish("a/b", "x", b"1", '"one"', durable=True)
    await log.close()
    path = tmp_path / "events.db"
    broken = (*MIGRATIONS, "ALTER TABLE event ADD COLUMN colour TEXT; DROP TABLE nonsense")
    with closing(connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="nonsense"):
            migrate(connection, path, broken)
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    log = await LocalLog.open(tmp_path)
    assert log.last.epoch == first.epoch
    assert (await log.stats()).events == 1
    await log.close()
