"""A PostgreSQL of the tests' own: Debian's, over a socket in a folder that is deleted with it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.interop.tools import debian_or_skip

_SETTINGS = (
    "listen_addresses=",
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "max_connections=40",
)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that runs."""

    folder: Path
    programs: Path

    def database(self) -> str:
        """URL of a database that is empty; there is one at a time."""
        # Another database for each would be a thousand files more for each.
        self._psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def kill(self) -> None:
        """End it with SIGKILL."""
        process = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
        os.kill(int(process), signal.SIGKILL)

    def ready(self) -> bool:
        try:
            self._psql("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def _psql(self, statement: str) -> None:
        place = ["-h", str(self.folder), "-U", "postgres"]
        command = [str(self.programs / "psql"), *place, "-qXc", statement]
        subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def postgres_or_skip() -> Generator[Postgres]:
    """Run a server; the test is skipped where there is none."""
    programs = debian_or_skip("postgresql", _found)
    account = _account()
    with tempfile.TemporaryDirectory(prefix="protoplane-pg-") as made:
        folder = Path(made)
        if account is not None:
            # It does not run as root.
            os.chown(folder, account.pw_uid, account.pw_gid)
        user = None if account is None else account.pw_uid
        group = None if account is None else account.pw_gid
        groups: list[int] | None = None if account is None else []
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
            user=user,
            group=group,
            extra_groups=groups,
        )
        options = [part for setting in _SETTINGS for part in ("-c", setting)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, *options],
                stdout=log,
                stderr=log,
                cwd=folder,
                user=user,
                group=group,
                extra_groups=groups,
            )
        try:
            server = Postgres(folder, programs)
            until = time.monotonic() + 60
            while not server.ready():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.1)
            yield server
        finally:
            # Its immediate shutdown: nothing of it is kept.
            process.send_signal(signal.SIGQUIT)
            process.wait(60)


def _found() -> Path | None:
    # Debian keeps them off the path.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (beside := shutil.which("initdb")) is not None:
        folders.insert(0, Path(beside).resolve().parent)
    for folder in folders:
        if all((folder / each).exists() for each in ("initdb", "postgres", "psql")):
            return folder
    return None


def _account() -> pwd.struct_passwd | None:
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other account")
