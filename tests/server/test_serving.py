"""`serve` as a program: signals, exit codes, several workers."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from protoplane_server.commands.serve import serve as serve_command

ROOT = Path(__file__).parents[2]
OWN_LOGS = "each of the 2 workers has an event log of its own"
HEADER = """
import asyncio
from forge.captioner.v1 import CaptionerService, ListStylesResponse
from protoplane_server import serve

class Component(CaptionerService):
    async def list_styles(self, request, ctx):
        import os
        if seconds := float(ctx.metadata.get("x-sleep", 0)):
            print("sleeping", flush=True)
            await asyncio.sleep(seconds)
        ctx.set_trailer("x-pid", str(os.getpid()))
        return ListStylesResponse()
"""


class Program:
    """A component in a process of its own."""

    def __init__(self, call: str, tmp_path: Path) -> None:
        path = tmp_path / "component.py"
        path.write_text(HEADER + textwrap.dedent(call))
        self.log = tmp_path / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", str(path)],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text()

    def until(self, pattern: str, count: int = 1) -> list[str]:
        deadline = time.monotonic() + 20
        while len(found := re.findall(pattern, self.text())) < count:
            assert time.monotonic() < deadline, self.text()
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)
        return found

    def url(self) -> str:
        return self.until(r"HTTP at (http://\S+)")[0]

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def exit_code(self) -> int:
        return self.process.wait(20)


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
        program.process.wait(10)


def call(url: str, sleep_s: float = 0) -> httpx.Response:
    return httpx.post(
        f"{url}/forge.captioner.v1.CaptionerService/ListStyles",
        json={},
        headers={"x-sleep": str(sleep_s)},
        timeout=20,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_with_zero(number: int, tmp_path: Path, programs: list[Program]) -> None:
    program = Program("serve(Component(), grpc=0, http=0)", tmp_path)
    programs.append(program)
    assert call(program.url()).status_code == 200
    program.signal(number)
    assert program.exit_code() == 0
    assert "Traceback" not in program.text()
    assert "event log of its own" not in program.text()


def test_the_end_of_its_lifeline_ends_it(tmp_path: Path, programs: list[Program]) -> None:
    line = tmp_path / "line"
    os.mkfifo(line)
    held = os.open(line, os.O_RDWR)
    opened = f"os.open({str(line)!r}, os.O_RDONLY)"
    program = Program(
        f"import os; serve(Component, grpc=None, http=0, lifeline={opened})", tmp_path
    )
    programs.append(program)
    url = program.url()
    # Ctrl-C is for who holds the line.
    program.signal(signal.SIGINT)
    assert call(url).status_code == 200
    os.close(held)
    assert program.exit_code() == 0
    assert "Traceback" not in program.text()


def test_the_environment_names_the_engine(
    tmp_path: Path, programs: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOPLANE_ENGINE", f"local:{tmp_path / 'engine'}")
    program = Program("serve(Component, grpc=None, http=0, workers=2)", tmp_path)
    programs.append(program)
    program.until(r"HTTP at (http://\S+)", 2)
    program.signal(signal.SIGTERM)
    assert program.exit_code() == 0
    assert OWN_LOGS not in program.text()
    assert (tmp_path / "engine" / "events.db").exists()


def test_an_engine_that_there_is_not(
    tmp_path: Path, programs: list[Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOPLANE_ENGINE", "nonsense:")
    for workers in (1, 2):
        call = f"serve(Component, grpc=None, http=0, workers={workers})"
        program = Program(call, tmp_path)
        programs.append(program)
        assert program.exit_code() == 1
        assert "protoplane: there is no engine nonsense:" in program.text()
        assert "Traceback" not in program.text()


def test_open_calls_finish(tmp_path: Path, programs: list[Program]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    program = Program("serve(Component(), grpc=None, http=0)", tmp_path)
    programs.append(program)
    url = program.url()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, url, 1)
        program.until("sleeping")
        program.signal(signal.SIGTERM)
        assert answer.result(20).status_code == 200
    assert program.exit_code() == 0


def test_a_second_signal_hurries(tmp_path: Path, programs: list[Program]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    program = Program("serve(Component(), grpc=None, http=0, grace_s=60)", tmp_path)
    programs.append(program)
    url = program.url()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, url, 50)
        program.until("sleeping")
        program.signal(signal.SIGTERM)
        program.until("draining")
        program.signal(signal.SIGTERM)
        assert answer.result(20).status_code == 503
    assert program.exit_code() == 0


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("door", ["grpc", "http"])
def test_a_taken_port_is_one_line(
    door: str, workers: int, tmp_path: Path, programs: list[Program]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        doors = {"grpc": 0, "http": 0, door: port}
        program = Program(f"serve(Component, workers={workers}, **{doors})", tmp_path)
        programs.append(program)
        assert program.exit_code() == 1
        assert program.text() == f"protoplane: 127.0.0.1:{port} is taken by another program\n"


def test_workers_share_the_ports(tmp_path: Path, programs: list[Program]) -> None:
    program = Program("serve(Component, grpc=0, http=0, workers=2)", tmp_path)
    programs.append(program)
    urls = program.until(r"HTTP at (http://\S+)", 2)
    assert len(set(urls)) == 1
    assert len(set(program.until(r"gRPC at (\S+)", 2))) == 1
    pids = {call(urls[0]).headers["trailer-x-pid"] for _ in range(40)}
    assert len(pids) == 2
    assert program.text().count(OWN_LOGS) == 1
    # One that dies is replaced, and the others serve on meanwhile.
    os.kill(int(pids.pop()), signal.SIGKILL)
    program.until("another takes its place")
    program.until(r"HTTP at (http://\S+)", 3)
    assert call(urls[0]).status_code == 200
    program.signal(signal.SIGTERM)
    assert program.exit_code() == 0


def test_workers_without_events_have_no_warning(tmp_path: Path, programs: list[Program]) -> None:
    program = Program("serve(Component, grpc=0, http=None, workers=2)", tmp_path)
    programs.append(program)
    program.until(r"gRPC at (\S+)", 2)
    program.signal(signal.SIGTERM)
    assert program.exit_code() == 0
    assert OWN_LOGS not in program.text()


def test_the_help_says_when_workers_do_not_share() -> None:
    shown = CliRunner().invoke(serve_command, ["--help"]).output
    assert "each has an event log of its own" in " ".join(shown.split())


def test_workers_end_with_their_parent(tmp_path: Path, programs: list[Program]) -> None:
    program = Program("serve(Component, grpc=None, http=0, workers=2)", tmp_path)
    programs.append(program)
    url = program.until(r"HTTP at (http://\S+)", 2)[0]
    program.process.kill()
    program.process.wait(10)
    deadline = time.monotonic() + 20
    while True:
        try:
            call(url)
        except httpx.TransportError:
            break
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == 503, "it drains first"  # noqa: PT017
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_that_cannot_start_give_up(tmp_path: Path, programs: list[Program]) -> None:
    program = Program(
        """
        class Broken(Component):
            def __init__(self):
                raise ValueError("no model in /models")
        serve(Broken, grpc=None, http=0, workers=2)
        """,
        tmp_path,
    )
    programs.append(program)
    assert program.exit_code() == 1
    assert "protoplane: no model in /models" in program.text()
    assert "giving up" in program.text()
