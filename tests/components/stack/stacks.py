"""Stacks of small components, and somebody who watches them; also the program that starts one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from protoplane_components.stack.identity import born
from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.records import Phase, ProcessRecord, StackRecord
from protoplane_components.stack.roles import Role
from protoplane_components.stack.settings import StackSettings
from protoplane_components.stack.starting import start
from protoplane_components.stack.watching import changes

LIMIT_S = 30.0
_ROOT = Path(__file__).resolve().parents[3]
CAPTIONER = "protoplane_components.captioner"


class Watched:
    """A stack, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self.place = StackPlace(folder)

    @classmethod
    @contextmanager
    def over(cls, folder: Path) -> Generator[Watched]:
        """Watch a folder; what is left of its stack at the end is killed."""
        watched = cls(folder)
        try:
            yield watched
        finally:
            record = watched.place.read()
            mine = [] if record is None else [(each.pid, each.born) for each in record.processes]
            mine += [] if record is None else [(record.owner.pid, record.owner.born)]
            for pid, began in mine:
                if pid and born(pid) == began:
                    os.kill(pid, signal.SIGKILL)

    def until(self, seen: Callable[[StackRecord], bool]) -> StackRecord:
        """Wait until the stack says something."""
        end = time.monotonic() + LIMIT_S
        while True:
            record = self.place.read()
            if record is not None and seen(record):
                return record
            assert time.monotonic() < end, record
            time.sleep(0.02)

    def ready(self) -> StackRecord:
        """Wait until all of it is ready."""
        return self.until(
            lambda record: (
                record.phase is Phase.READY
                and all(each.phase is Phase.READY for each in record.processes)
            )
        )


def role(record: StackRecord, name: str) -> ProcessRecord:
    """One process of a stack."""
    return next(each for each in record.processes if each.role == name)


def gone(record: StackRecord) -> bool:
    """Whether no process of a stack lives."""
    return not any(each.pid and born(each.pid) == each.born for each in record.processes)


def eventually(check: Callable[[], bool]) -> None:
    """Wait for something to be so."""
    end = time.monotonic() + LIMIT_S
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


class Started(Watched):
    """A stack that a program of its own has started."""

    def __init__(self, folder: Path, *roles: str, attached: bool) -> None:
        super().__init__(folder)
        how = "attached" if attached else "detached"
        # Components of tests are found from there, too.
        self.starter = subprocess.Popen(
            [sys.executable, __file__, str(folder), how, *roles], cwd=_ROOT
        )


@contextmanager
def stack(folder: Path, *roles: str, attached: bool = True) -> Generator[Started]:
    """A stack; what is left of it at the end is killed."""
    with Watched.over(folder):
        started = Started(folder, *roles, attached=attached)
        try:
            yield started
        finally:
            started.starter.kill()
            started.starter.wait(LIMIT_S)


def main(folder: str, how: str, *roles: str) -> None:
    """Start a stack; attached, stay with it to its end."""
    made = [
        Role(name, component, order=order)
        for order, (name, _, component) in enumerate(each.partition("=") for each in roles)
    ]
    settings = StackSettings(folder=Path(folder), http="127.0.0.1:0")
    started = start(settings, made, attached=how == "attached")

    async def follow() -> None:
        async for _ in changes(started):
            pass

    if how == "attached":
        asyncio.run(follow())
        sys.exit(started.wait())


if __name__ == "__main__":
    main(*sys.argv[1:])
