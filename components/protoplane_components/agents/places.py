"""Folders that hosts keep their agents in, one for each host of the machine at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import cast

from protoplane_base import Code, PlaneError
from protoplane_components.agents.agent import RECORD, AgentRecord
from protoplane_components.agents.supervisor import SPEC, LaunchSpec
from protoplane_runtime.engines.folders import default_folder

VARIABLE = "PROTOPLANE_AGENTS_FOLDER"
"""The environment variable that names the folder of the hosts' folders."""

_MOST = 1000


class Place:
    """The folder of one host, for as long as it holds it.

    Args:
        folder: The folder.
        lock: Open file whose lock says that it is taken; closed by `release`.
    """

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def take(cls, base: Path | None = None) -> Place:
        """Take the first that no other host has: ``0``, ``1``, … in the folder of all.

        So a host that comes after one that ended, however that was, finds its agents.

        Args:
            base: The folder of all; by default ``$PROTOPLANE_AGENTS_FOLDER``, else ``agents`` in
                that of ``local:``.

        Raises:
            PlaneError: PERMISSION_DENIED; the folder cannot be used.
        """
        named = os.environ.get(VARIABLE)
        base = base or (Path(named) if named else default_folder() / "agents")
        try:
            for number in range(_MOST):
                folder = base.absolute() / str(number)
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                    continue
                return cls(folder, lock)
        except OSError as error:
            raise PlaneError(
                Code.PERMISSION_DENIED, f"agents cannot be kept in {base}: {error.strerror}"
            ) from error
        raise PlaneError(
            Code.RESOURCE_EXHAUSTED, f"{_MOST} hosts use {base} already; name another folder"
        )

    def release(self) -> None:
        """Let another host have it."""
        os.close(self._lock)

    def records(self) -> list[AgentRecord]:
        """The agents that are kept here; what was half made is taken away."""
        found: list[AgentRecord] = []
        for folder in self.folder.iterdir():
            if not folder.is_dir():
                continue
            try:
                record = cast("AgentRecord", json.loads((folder / RECORD).read_text()))
            except (OSError, ValueError):
                shutil.rmtree(folder, ignore_errors=True)
            else:
                found.append(record)
        return found

    def prepare(self, record: AgentRecord, process: LaunchSpec) -> Path:
        """Make the folder of an agent, with what its supervisor is to start.

        Raises:
            OSError: It cannot be made.
        """
        folder = self.folder / record["id"]
        folder.mkdir(mode=0o700)
        if not process["folder"]:
            own = folder / "work"
            own.mkdir(mode=0o700)
            process = {**process, "folder": str(own)}
        for name, content in ((SPEC, process), (RECORD, record)):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(file, "w") as written:
                json.dump(content, written)
        return folder

    def remove(self, id_: str) -> None:
        """Forget an agent that has ended."""
        shutil.rmtree(self.folder / id_, ignore_errors=True)
