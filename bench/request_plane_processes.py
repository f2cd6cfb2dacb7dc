"""The processes of `bench/request_plane.py`: a server and a caller for each row, and what they do.

The caller's process takes its orders as lines of JSON on the standard input and answers each with
one line. Both processes end when their input does, so none outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import IO, Any

from request_plane_side import TOKENS, Caller, Side

_DEADLINE_S = 60.0
_MAIN = Path(__file__).with_name("request_plane.py")
# More at once would measure what the opening needs for a moment, not what an open stream costs.
_OPENING = 32


class SideError(Exception):
    """A row could not be measured; the message says why."""


class Pair:
    """A server and a caller of one row, each a process; `close` ends both.

    Args:
        side: The row.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        self._caller: subprocess.Popen[str] | None = None
        self._server = _start("--serve", side.name) if side.apart else None

    def connect(self) -> None:
        """Wait for the server and start its caller."""
        address = "" if self._server is None else _line(self._server)
        self._caller = _start("--drive", self.side.name, address)

    def ready(self) -> None:
        """Wait for the caller, which warms both up.

        Raises:
            SideError: One of the processes failed.
        """
        assert self._caller is not None
        self._answer()

    def calls(self, concurrency: int, seconds: float) -> dict[str, float]:
        """Calls a second, and the median and the 95th percentile of their latency in µs."""
        return self._ask({"do": "calls", "concurrency": concurrency, "seconds": seconds})

    def tokens(self, concurrency: int, seconds: float) -> float:
        """Messages a second of so many concurrent token streams."""
        answer = self._ask({"do": "tokens", "concurrency": concurrency, "seconds": seconds})
        return answer["rate"]

    def idle_stream_bytes(self, streams: int) -> tuple[float, float]:
        """Resident bytes that an open, silent stream costs the server and the caller.

        Where one process holds both ends, all of it counts as the caller's.
        """
        caller, server = self._watch(8)
        for_caller, for_server = (
            after - before
            for after, before in zip(self._watch(streams), (caller, server), strict=True)
        )
        return for_server / streams, for_caller / streams

    def _watch(self, streams: int) -> tuple[float, float]:
        answer = self._ask({"do": "watch", "streams": streams})
        return answer["resident"], 0.0 if self._server is None else _resident(self._server.pid)

    def close(self) -> None:
        """End the caller, then the server."""
        for process in (self._caller, self._server):
            if process is not None:
                _end(process)

    def _ask(self, order: Mapping[str, object]) -> dict[str, float]:
        assert self._caller is not None
        assert self._caller.stdin is not None
        try:
            self._caller.stdin.write(json.dumps(order) + "\n")
            self._caller.stdin.flush()
        except BrokenPipeError:
            raise SideError("its caller has died") from None
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._caller is not None
        answer: dict[str, Any] = json.loads(_line(self._caller))
        if "error" in answer:
            raise SideError(answer["error"])
        return answer


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, _MAIN, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the benchmark, which then ends them.
        start_new_session=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    # Every order has its deadline in the caller; this one is for a process that hangs as a whole.
    watchdog = threading.Timer(3 * _DEADLINE_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline().strip()
    finally:
        watchdog.cancel()
    if not line:
        raise SideError("one of its processes died, and said why on the standard error")
    return line


def _end(process: subprocess.Popen[str]) -> None:
    pipes: list[IO[str]] = [pipe for pipe in (process.stdin, process.stdout) if pipe is not None]
    for pipe in pipes:
        try:
            pipe.close()
        except BrokenPipeError:
            continue
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _resident(pid: int | str = "self") -> int:
    """Resident bytes of a process, as Linux counts them."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# What runs in the processes.


def serve(side: Side) -> None:
    """The server's process: serve until the input ends."""

    def follow() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    logging.basicConfig(level=logging.WARNING)
    side.serve()


async def drive(side: Side, address: str) -> None:
    """The caller's process: answer each order on the input until it ends."""
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    caller = await side.connect(address)
    watching: set[asyncio.Task[None]] = set()
    try:
        await _tell(_warm_up(caller))
        gc.collect()
        gc.freeze()
        while line := await orders.readline():
            order = json.loads(line)
            match order.pop("do"):
                case "calls":
                    await _tell(_calls(caller, **order))
                case "tokens":
                    await _tell(_tokens(caller, **order))
                case _:
                    await _tell(_watch(caller, watching, **order))
    finally:
        for task in watching:
            task.cancel()
        if watching:
            await asyncio.wait(watching)
        await caller.aclose()


async def _tell(measure: Any) -> None:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            answer = await measure
    except TimeoutError:
        answer = {"error": f"no answer within {_DEADLINE_S:g} s"}
    print(json.dumps(answer), flush=True)


async def _warm_up(caller: Caller) -> dict[str, float]:
    """Make what the first calls make; not so many that freed memory hides what comes after."""

    async def calling() -> None:
        for _ in range(16):
            await caller.call()

    await asyncio.gather(*(calling() for _ in range(64)))
    return {}


async def _calls(caller: Caller, concurrency: int, seconds: float) -> dict[str, float]:
    spent: list[float] = []

    async def calling() -> None:
        while (began := perf_counter()) < until:
            await caller.call()
            spent.append(perf_counter() - began)

    started = perf_counter()
    until = started + seconds
    await asyncio.gather(*(calling() for _ in range(concurrency)))
    elapsed = perf_counter() - started
    spent.sort()
    return {
        "rate": len(spent) / elapsed,
        "p50": median(spent) * 1e6,
        "p95": spent[int(len(spent) * 0.95)] * 1e6,
    }


async def _tokens(caller: Caller, concurrency: int, seconds: float) -> dict[str, float]:
    received = 0

    async def reading() -> None:
        nonlocal received
        while perf_counter() < until:
            tokens = 0
            async for _ in caller.stream():
                tokens += 1
            if tokens != TOKENS:
                raise ValueError(f"a stream of {TOKENS} tokens gave {tokens}")
            received += tokens

    started = perf_counter()
    until = started + seconds
    await asyncio.gather(*(reading() for _ in range(concurrency)))
    return {"rate": received / (perf_counter() - started)}


async def _watch(
    caller: Caller, watching: set[asyncio.Task[None]], streams: int
) -> dict[str, float]:
    """Open so many more streams, each with a task that waits for its next message."""
    opening = asyncio.Semaphore(_OPENING)
    opened = asyncio.Queue[None]()

    async def watch() -> None:
        async for _ in caller.watch():
            opening.release()
            opened.put_nowait(None)

    for _ in range(streams):
        await opening.acquire()
        watching.add(asyncio.create_task(watch()))
    for _ in range(streams):
        await opened.get()
    await asyncio.sleep(0.3)
    ended = sum(task.done() for task in watching)
    if ended:
        raise ValueError(f"{ended} of {len(watching)} idle streams ended")
    gc.collect()
    return {"resident": _resident()}
