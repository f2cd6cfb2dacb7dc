"""Replay over HTTP: what a server holds while one client reads a long log from its beginning.

A million durable events of 190 bytes (a quarter of that without ``--full``) are put into the log of
the engine ``local:``. Then a server, a process of its own, sends them all to one client, first to
one that reads as fast as it can, then to one that takes some 30 MB/s, as a browser may. Counted are
the events that came, each once and in order, and by how much the server's private memory grew at
most; the memory that all processes of the engine share is not its own.

A part of ``bench/events.py``, which joins what `long_replay` returns; also a program of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Self

from events_sample import KEY, TYPE, event
from http_process import serve_named
from report import Claim, Row, print_report

PACKAGES = ("uvicorn", "uvloop", "httptools", "pydantic")

_EVENTS = 250_000
_EVENTS_FULL = 1_000_000
_TOGETHER = 2_000
_READ_BYTES = 256 * 1024
_PAUSE_S = _READ_BYTES / 30e6
_MOST_MB = 8.0
_FOLDER = "PROTOPLANE_BENCH_FOLDER"
_PROGRAM = Path(__file__)
_ID = re.compile(rb"^id: \d+-(\d+)\n", re.MULTILINE)


async def serve_ours(sock: socket.socket) -> None:
    """The HTTP door in front of the log in a folder."""
    from forge.captioner.v1 import CaptionerService
    from protoplane_runtime.engines.local.log import LocalLog
    from protoplane_server.dispatcher import Dispatcher
    from protoplane_server.http import HttpDoor

    log = await LocalLog.open(Path(os.environ[_FOLDER]))
    door = HttpDoor(Dispatcher([CaptionerService()], events=log), health=lambda: True)
    await door.run([sock])


async def _fill(folder: Path, events: int) -> None:
    from protoplane_runtime.engines.local.log import LocalLog

    log = await LocalLog.open(folder)
    message = event(0)
    data, text = message.to_bytes(), message.model_dump_json()
    for _ in range(0, events, _TOGETHER):
        await asyncio.gather(
            *(log.publish(KEY, TYPE, data, text, durable=True) for _ in range(_TOGETHER))
        )
    await log.close()


@contextlib.contextmanager
def _server(folder: Path) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        process = subprocess.Popen(
            [sys.executable, _PROGRAM, "--serve", "ours", str(sock.fileno())],
            pass_fds=[sock.fileno()],
            env={**os.environ, _FOLDER: str(folder)},
        )
        try:
            yield sock.getsockname()[1], process
        finally:
            process.kill()
            process.wait()


def _read_all(port: int, events: int, pause_s: float) -> float:
    """Read so many events; gives the seconds that it took.

    Raises:
        AssertionError: One was missing, came twice or out of order.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        began = perf_counter()
        sock.sendall(b"GET /events/**?after=earliest HTTP/1.1\r\nhost: bench\r\n\r\n")
        expected, rest = 1, b""
        while expected <= events:
            some = sock.recv(_READ_BYTES)
            assert some, "the server closed the stream"
            lines, end, rest = (rest + some).rpartition(b"\n")
            ids = [int(each) for each in _ID.findall(lines + end)]
            assert ids == [*range(expected, expected + len(ids))], f"not {expected} and on"
            expected += len(ids)
            if pause_s:
                sleep(pause_s)
        return perf_counter() - began


class _Growth:
    """Looks every few milliseconds how much private memory a process has more than at first."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._path = Path(f"/proc/{process.pid}/status")
        self._before = self._look()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            self.most_mb = max(self.most_mb, self._look() - self._before)

    def _look(self) -> float:
        found = re.search(r"^RssAnon:\s+(\d+) kB", self._path.read_text(), re.MULTILINE)
        assert found
        return int(found[1]) / 1024


def long_replay(*, full: bool) -> tuple[list[Row], list[Claim]]:
    """What a replay costs the server, at the pace of a fast client and of a slow one."""
    events = _EVENTS_FULL if full else _EVENTS
    rows: list[Row] = []
    grown: list[float] = []
    with TemporaryDirectory() as folder:
        asyncio.run(_fill(Path(folder), events))
        with _server(Path(folder)) as (port, process):
            _read_all(port, 10_000, 0)  # What the first reader opens, all share.
            for client, pause_s in (("fast", 0.0), ("slow", _PAUSE_S)):
                with _Growth(process) as growth:
                    took_s = _read_all(port, events, pause_s)
                grown.append(growth.most_mb)
                name = f"replay of {events:,} events over HTTP, {client} client"
                rows += [
                    Row(name, "events", events / took_s, "1/s"),
                    Row(name, "private memory more at most", grown[-1], "MB"),
                ]
    claim = f"a replay of {events:,} events holds few MB in the server"
    return rows, [Claim(claim, _MOST_MB, max(grown), at_most=True)]


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve_named({"ours": serve_ours}, *sys.argv[-2:])
    else:
        rows, claims = long_replay(full="--full" in sys.argv)
        print_report("events_replay", rows, claims, PACKAGES)
