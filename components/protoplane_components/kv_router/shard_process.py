"""A process that serves one shard, and what keeps several of them alive.

    python -m protoplane_components.kv_router.shard_process NAME ENGINE NAMESPACE LINK

It ends when its standard input does: nobody outlives who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.shard import KvShard, shard_path
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_server.serving import serve

_log = logging.getLogger("protoplane.router")

LINK = "link+tcp://127.0.0.1:0"
"""Where a shard takes links that nobody told anything else."""

_SHORT_LIFE_S = 5.0
_MAX_PAUSE_S = 10.0
_END_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Where shards are.

    Attributes:
        engine: URL of the engine, which several processes can share.
        namespace: Where they are found in it.
        link: Where each takes links.
    """

    engine: str
    namespace: str = DEFAULT_NAMESPACE
    link: str = LINK


class ShardProcesses:
    """Keeps processes alive, one for each shard; ``async with`` ends them.

    One that dies is started again, at once at first, later after a pause that grows.

    Args:
        numbers: Which shards, counted from 1.
        count: How many there are in all.
        place: Where.

    Raises:
        PlaneError: INVALID_ARGUMENT, the engine is one that processes do not share.
    """

    def __init__(self, numbers: Sequence[int], count: int, place: ShardPlace) -> None:
        if place.engine.startswith("memory:"):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "memory: is in one process alone, and shards are several; name another engine, "
                "local: say",
            )
        self._numbers = numbers
        self._count = count
        self._place = place
        self._processes: dict[int, Process] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of those that run, by the numbers of their shards."""
        return {
            number: process.pid
            for number, process in self._processes.items()
            if process.returncode is None
        }

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._keep(number)) for number in self._numbers]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _keep(self, number: int) -> None:
        pause_s = 0.0
        while True:
            began = time.monotonic()
            process = self._processes[number] = await self._start(number)
            try:
                code = await process.wait()
            finally:
                if process.returncode is None:
                    await _end(process)
            _log.error("shard %d of %d ended with %d", number, self._count, code)
            short = time.monotonic() - began < _SHORT_LIFE_S
            pause_s = min(max(2 * pause_s, 0.5), _MAX_PAUSE_S) if short else 0.0
            await asyncio.sleep(pause_s)

    async def _start(self, number: int) -> Process:
        place = self._place
        name = f"{shard_path(number, self._count)}/{secrets.token_hex(4)}"
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "protoplane_components.kv_router.shard_process"),
            *(name, place.engine, place.namespace, place.link),
            stdin=PIPE,
        )


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def main(arguments: Sequence[str]) -> None:
    """Serve a shard until the standard input ends, or SIGTERM."""
    name, engine, namespace, link = arguments
    serve(
        KvShard(),
        grpc=None,
        http=None,
        link=(link,),
        engine=engine,
        namespace=namespace,
        name=name,
        lifeline=sys.stdin.fileno(),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
