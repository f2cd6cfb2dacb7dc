"""Zenoh nodes of the tests: on the loopback interface, without multicast."""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from types import TracebackType
from typing import Self

from protoplane_runtime.engines.zenoh.log import ZenohLog
from protoplane_runtime.engines.zenoh.session import Session
from protoplane_runtime.engines.zenoh.settings import ZenohSettings

ROOT = Path(__file__).parents[2]


class Worker:
    """A process of `tests.runtime.zenoh_worker` that is killed when the block ends."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.runtime.zenoh_worker",
            *self._arguments,
            stdin=PIPE,
            stdout=PIPE,
            cwd=ROOT,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def said(self) -> str:
        """What it says next; empty where it is gone."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            return (await self.process.stdout.readline()).decode().strip()

    def tell(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Network:
    """A first node, and others that know it and learn of each other from it.

    Args:
        folder: Where the folders of nodes are made.

    Attributes:
        url: The URL by which an engine joins.
    """

    def __init__(self, folder: Path) -> None:
        hub = f"tcp/127.0.0.1:{free_port()}"
        self._folder = folder
        self._hub = ZenohSettings.parse(f"zenoh:?listen={hub}&folder={folder}/hub")
        self._opened: list[Session] = []
        self.url = f"zenoh:{hub}?listen=tcp/127.0.0.1:0"

    @property
    def hub(self) -> Session:
        """The session of the first node."""
        return self._opened[0]

    async def session(self, url: str | None = None) -> Session:
        """Another session; who holds it lets go of it, and so does the network at its end."""
        settings = ZenohSettings.parse(url or self.url)
        session = (await Session.open(settings)).hold()
        self._opened.append(session)
        await session.settled()
        return session

    async def log(self, name: str) -> ZenohLog:
        """The event log of a node of its own, by the name of its folder; whoever asks closes it."""
        session = await self.session(self.url_of(name))
        self._opened.remove(session)
        log = await ZenohLog.open(session)
        await session.release()
        return log

    def url_of(self, name: str) -> str:
        """The URL by which an engine joins with a folder of that name."""
        return f"{self.url}&folder={self._folder}/{name}"

    async def __aenter__(self) -> Self:
        self._opened.append((await Session.open(self._hub)).hold())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session in reversed(self._opened):
            await session.release()
