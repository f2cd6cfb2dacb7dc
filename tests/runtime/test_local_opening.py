"""Many may open a new log at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from protoplane_runtime.engines.local.schema import VERSION, connect, migrate


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
