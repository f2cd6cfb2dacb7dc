"""The process that watches over one agent, and outlives its host; run as a script of its own.

It starts the agent in a process group, keeps the newest of what that writes in two files, and
takes the host's orders at a unix socket. How the agent ended is in its folder even where nobody
was there to see it. When it dies itself the kernel ends the agent with it.

It imports nothing but the standard library, so that it starts fast and stays small; the host
imports the forms of its files and messages from here. It runs on Linux alone: pidfd, prctl.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

SPEC, STATUS, SOCKET, LOG = "spec.json", "status.json", "s", "supervisor.log"
OUTPUTS = ("stdout", "stderr")

HEADER = struct.Struct("<QQQQ")
"""Begins the file of a stream: bytes written in all, bytes of the ring, bytes of those that are
kept, and whether nothing comes any more. Byte n of the stream is at n modulo the ring."""

CHUNK_BYTES = 65_536
"""Most bytes that are written to a ring at a time: so far beyond what is kept they overwrite."""

_TAIL_BYTES = 1_048_576 + CHUNK_BYTES
"""What a pipe may still hold when the agent has ended, and nobody has to take any more."""

MAX_PENDING_BYTES = 4_194_304
"""Most bytes that wait for an agent to read its input."""

STARTED = b"started"
"""What is told to who started a supervisor, once its agent runs."""

_NOTICE_S = 0.005
_ORPHANS_S = 2.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class LaunchSpec(TypedDict):
    """What to start, as the host writes it in the agent's folder."""

    argv: list[str]
    environment: dict[str, str]
    folder: str
    limits: dict[str, int]
    timeout_s: float | None
    grace_s: float
    output_bytes: int
    block: bool


class StatusRecord(TypedDict):
    """How the agent does, as it is kept in its folder and told to the host."""

    state: str
    pid: int
    started_ns: int
    ended_ns: int
    exit_code: int | None
    signal: str
    cause: str
    stdout: int
    stderr: int
    written: int


class Ring:
    """The newest bytes of a stream, in a file.

    Args:
        path: The file.
        keep: Bytes to keep.
        block: Whether the writer is to wait where so many were not taken yet; then more are kept,
            for what comes when nobody has to wait any more.
    """

    def __init__(self, path: Path, keep: int, *, block: bool) -> None:
        self._limit = keep if block else None
        self._size = keep + (_TAIL_BYTES if block else CHUNK_BYTES)
        self._kept = self._size - CHUNK_BYTES
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(self._file, 0, HEADER.size + self._size)
        self.end = 0
        self.taken = 0
        self._note(closed=False)

    @property
    def full(self) -> bool:
        """Whether the agent has to wait until somebody has read."""
        return self._limit is not None and self.end - self.taken >= self._limit

    def write(self, data: bytes) -> None:
        """Write some bytes, `CHUNK_BYTES` at most, over the oldest."""
        at = self.end % self._size
        first = data[: self._size - at]
        os.pwrite(self._file, first, HEADER.size + at)
        if len(first) < len(data):
            os.pwrite(self._file, data[len(first) :], HEADER.size)
        self.end += len(data)
        self._note(closed=False)

    def close(self) -> None:
        """Say that nothing comes any more."""
        self._note(closed=True)
        os.close(self._file)

    def _note(self, *, closed: bool) -> None:
        # Last, so that whoever sees the new end sees the bytes before it.
        os.pwrite(self._file, HEADER.pack(self.end, self._size, self._kept, closed), 0)


class _Output:
    """Moves what comes through a pipe into its ring."""

    def __init__(self, pipe: int, ring: Ring, changed: Callable[[], None]) -> None:
        self._pipe = pipe
        self.ring = ring
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self.over = asyncio.Event()
        self._ending = False
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._read)

    def take(self, offset: int) -> None:
        """Somebody has read up to here."""
        full = self.ring.full
        self.ring.taken = max(self.ring.taken, min(offset, self.ring.end))
        if full and not self.ring.full and not self.over.is_set():
            self._loop.add_reader(self._pipe, self._read)

    def finish(self) -> None:
        """The agent has ended: what the pipe holds is read, whoever took what was before."""
        self._ending = True
        if not self.over.is_set():
            self._loop.add_reader(self._pipe, self._read)

    def close(self) -> None:
        """Read no more."""
        if not self.over.is_set():
            self._loop.remove_reader(self._pipe)
            self.over.set()
        os.close(self._pipe)
        self.ring.close()

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._pipe)
            self.over.set()
            return
        self.ring.write(data)
        self._changed()
        if self.ring.full and not self._ending:
            self._loop.remove_reader(self._pipe)


class _Input:
    """Moves what the host sends into the agent's pipe, as fast as the agent reads."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[memoryview, bool, Callable[[str], None]]] = deque()
        self._writing = False
        self._open = True
        self.pending = 0
        self.written = 0
        os.set_blocking(pipe, False)

    def write(self, data: bytes, last: bool, done: Callable[[str], None]) -> None:
        """Write some bytes, then tell ``done`` the error, or nothing."""
        if self.pending + len(data) > MAX_PENDING_BYTES:
            done(f"RESOURCE_EXHAUSTED {self.pending} bytes wait already for the agent to read them")
            return
        self.pending += len(data)
        self._waiting.append((memoryview(data), last, done))
        if not self._writing:
            self._pump()

    def close(self) -> None:
        """Close the pipe, and give up what waits."""
        if self._open:
            self._open = False
            self._idle()
            os.close(self._pipe)
        while self._waiting:
            data, _, done = self._waiting.popleft()
            self.pending -= len(data)
            done("FAILED_PRECONDITION its standard input is closed")

    def _pump(self) -> None:
        while self._waiting:
            data, last, done = self._waiting[0]
            try:
                count = os.write(self._pipe, data[:CHUNK_BYTES]) if data and self._open else 0
            except BlockingIOError:
                if not self._writing:
                    self._writing = True
                    self._loop.add_writer(self._pipe, self._pump)
                return
            except OSError:
                self.close()
                return
            if not self._open:
                self.close()
                return
            self.pending -= count
            self.written += count
            if count < len(data):
                self._waiting[0] = data[count:], last, done
                continue
            self._waiting.popleft()
            done("")
            if last:
                self.close()
                return
        self._idle()

    def _idle(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._pipe)


class Supervisor:
    """Watches over one agent.

    Args:
        folder: The agent's.
        spec: What to start.
    """

    def __init__(self, folder: Path, spec: LaunchSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._hosts: set[asyncio.StreamWriter] = set()
        self._outputs: list[_Output] = []
        self._ended = asyncio.Event()
        self._killing: asyncio.TimerHandle | None = None
        self._noticing: asyncio.TimerHandle | None = None
        self._record = StatusRecord(
            state="running", pid=0, started_ns=time.time_ns(), ended_ns=0, exit_code=None,
            signal="", cause="", stdout=0, stderr=0, written=0,
        )  # fmt: skip

    def start(self) -> None:
        """Start the agent.

        Raises:
            OSError: It cannot be started.
        """
        spec = self._spec
        rings = [
            Ring(self._folder / name, spec["output_bytes"], block=spec["block"]) for name in OUTPUTS
        ]
        self._process = process = subprocess.Popen(
            spec["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=spec["environment"],
            cwd=spec["folder"],
            start_new_session=True,
            umask=0o022,
            preexec_fn=_confine(spec["limits"]),  # noqa: PLW1509  # there is one thread
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._input = _Input(os.dup(process.stdin.fileno()))
        pipes = (os.dup(process.stdout.fileno()), os.dup(process.stderr.fileno()))
        for file in (process.stdin, process.stdout, process.stderr):
            file.close()
        self._outputs = [
            _Output(pipe, ring, self._notice) for pipe, ring in zip(pipes, rings, strict=True)
        ]
        self._record["pid"] = process.pid
        self._record["started_ns"] = time.time_ns()
        self._watched = os.pidfd_open(process.pid)
        self._loop.add_reader(self._watched, self._ended.set)
        if spec["timeout_s"] is not None:
            self._loop.call_later(spec["timeout_s"], self._stop, "timed_out", spec["grace_s"])
        self._save()

    async def run(self) -> None:
        """Wait for the end of the agent, and write down how it was."""
        await self._ended.wait()
        self._loop.remove_reader(self._watched)
        if self._killing is not None:
            self._killing.cancel()
        self._signal(signal.SIGKILL)  # Who is left of its group.
        code = self._process.wait()
        for output in self._outputs:
            output.finish()
        _end_orphans()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ORPHANS_S):
                for output in self._outputs:
                    await output.over.wait()
        self._input.close()
        for output in self._outputs:
            output.close()
        record = self._record
        record["state"], record["pid"], record["ended_ns"] = "exited", 0, time.time_ns()
        record["cause"] = record["cause"] or "itself"
        if code >= 0:
            record["exit_code"] = code
        else:
            record["signal"] = _signal_name(-code)
        self._save()

    async def dismiss(self) -> None:
        """Let the hosts go, once they have heard how it ended."""
        for host in [*self._hosts]:
            # A host that hangs is no reason to stay.
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_ORPHANS_S):
                    await host.drain()
                    host.close()
                    await host.wait_closed()

    def host_gone(self) -> None:
        """The host has ended, and the agent is to end with it."""
        self._stop("host_ended", self._spec["grace_s"])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell a host how the agent does, and take its orders."""
        self._hosts.add(writer)
        try:
            self._tell(writer)
            while line := await reader.readline():
                order: dict[str, Any] = json.loads(line)
                data = await reader.readexactly(order.get("size", 0))
                self._obey(order, data, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # It is gone; another may come.
        finally:
            self._hosts.discard(writer)
            writer.close()

    def _obey(self, order: dict[str, Any], data: bytes, writer: asyncio.StreamWriter) -> None:
        if order["do"] == "taken":
            stream: int = order["stream"]
            self._outputs[stream].take(order["offset"])
            return

        def done(error: str) -> None:
            if not writer.is_closing():
                reply = {"reply": order["number"], "error": error, "status": self._status()}
                writer.write(json.dumps(reply).encode() + b"\n")

        if order["do"] == "write":
            self._input.write(data, order["last"], done)
            return
        if self._record["state"] == "exited" or self._ended.is_set():
            ends = order["do"] in ("stop", "kill")
            done("" if ends else "FAILED_PRECONDITION it has ended")
            return
        match order["do"]:
            case "pause" | "resume" if self._record["state"] == "stopping":
                done("FAILED_PRECONDITION it is ending")
                return
            case "pause":
                self._signal(signal.SIGSTOP)
                self._become("paused")
            case "resume":
                self._signal(signal.SIGCONT)
                self._become("running")
            case "stop":
                grace_s = order["grace_s"]
                self._stop("stopped", self._spec["grace_s"] if grace_s is None else grace_s)
            case _:
                self._record["cause"] = "killed"
                self._become("stopping")
                self._signal(signal.SIGKILL)
        done("")

    def _stop(self, cause: str, grace_s: float) -> None:
        if self._ended.is_set():
            return
        if self._record["state"] != "stopping":
            self._record["cause"] = cause
            self._become("stopping")
            self._signal(signal.SIGTERM)
            # One that is paused would not notice.
            self._signal(signal.SIGCONT)
        until = self._loop.time() + grace_s
        if self._killing is not None:
            until = min(until, self._killing.when())
            self._killing.cancel()
        self._killing = self._loop.call_at(until, self._signal, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _become(self, state: str) -> None:
        if self._record["state"] != state:
            self._record["state"] = state
            self._save()

    def _status(self) -> StatusRecord:
        out, err = self._outputs
        self._record["stdout"], self._record["stderr"] = out.ring.end, err.ring.end
        self._record["written"] = self._input.written
        return self._record

    def _save(self) -> None:
        partly = self._folder / f"{STATUS}.part"
        partly.write_text(json.dumps(self._status()))
        partly.replace(self._folder / STATUS)
        for host in self._hosts:
            self._tell(host)

    def _tell(self, host: asyncio.StreamWriter) -> None:
        if not host.is_closing():
            host.write(json.dumps({"status": self._status()}).encode() + b"\n")

    def _notice(self) -> None:
        """Tell that there is more output; not for each piece."""
        if self._noticing is None:
            self._noticing = self._loop.call_later(_NOTICE_S, self._told)

    def _told(self) -> None:
        self._noticing = None
        for host in self._hosts:
            if host.transport.get_write_buffer_size() < CHUNK_BYTES:
                self._tell(host)
            else:
                self._notice()


_LIMITS = {
    "memory_bytes": resource.RLIMIT_AS,
    "cpu_seconds": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
    "file_bytes": resource.RLIMIT_FSIZE,
}


def _confine(limits: dict[str, int]) -> Callable[[], None]:
    """What the agent's process does before it becomes the agent."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def confine() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, value in limits.items():
            _, most = resource.getrlimit(_LIMITS[name])
            least = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.setrlimit(_LIMITS[name], (least, least))

    return confine


def _end_orphans() -> None:
    """End what left the agent's group and was left behind; the kernel gave it to this process."""
    until = time.monotonic() + _ORPHANS_S
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while time.monotonic() < until:
        try:
            left = [int(pid) for pid in children.read_text().split()]
        except OSError:
            return  # This kernel does not tell.
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


async def _run(folder: Path, lifeline: int, asker: int) -> None:
    spec: LaunchSpec = json.loads((folder / SPEC).read_text())
    supervisor = Supervisor(folder, spec)
    server = await asyncio.start_unix_server(supervisor.serve, SOCKET)
    try:
        supervisor.start()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        os.write(asker, (getattr(error, "strerror", None) or str(error)).encode())
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, supervisor.host_gone)
    if lifeline >= 0:

        def cut() -> None:
            loop.remove_reader(lifeline)
            supervisor.host_gone()

        loop.add_reader(lifeline, cut)
    os.write(asker, STARTED)
    os.close(asker)
    await supervisor.run()
    server.close()
    await supervisor.dismiss()


def main() -> None:
    """Watch over the agent of a folder: ``supervisor.py FOLDER LIFELINE``.

    The lifeline is the end of a pipe that the host holds, -1 where the agent outlives it. It leaves
    a child behind, which does that, and writes to the standard output `STARTED`, or why not.
    """
    folder, lifeline = Path(sys.argv[1]), int(sys.argv[2])
    answer, asker = os.pipe()
    # Its own parent, so that it is no child of the host and in no session of it.
    if os.fork():
        os.close(asker)
        while told := os.read(answer, CHUNK_BYTES):
            os.write(1, told)
        os._exit(0)
    os.close(answer)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    os.setsid()
    os.umask(0o077)
    # The path of a unix socket has to be short; this one is.
    os.chdir(folder)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    asyncio.run(_run(folder, lifeline, asker))


if __name__ == "__main__":
    main()
