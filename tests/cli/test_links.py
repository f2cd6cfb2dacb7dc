"""Links and tokens on the command line: where links are taken, also later, and who may call."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import COMMAND, Run, eventually

from forge.captioner.v1 import CaptionerClient, CaptionRequest, ListStylesRequest
from protoplane_base import Code, PlaneError
from protoplane_client import connect

CAPTIONER = "protoplane_components.captioner:Captioner"
PLACE = ["--grpc", "0", "--http", "0"]
STYLES = "forge.captioner.v1.CaptionerService/ListStyles"
FINISHED = "forge.captioner.v1.CaptionFinished"


class Program:
    """``protoplane serve``, and all that it says."""

    def __init__(self, environment: dict[str, str], folder: Path, *arguments: str) -> None:
        self._said = folder / "said.txt"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", CAPTIONER, *PLACE, *arguments],
                stderr=said,
                env=environment,
                cwd=folder,
            )
        self.started = self.line(1)

    @property
    def lines(self) -> list[str]:
        """The lines that say where it is."""
        return [line for line in self._said.read_text().splitlines() if " at http://" in line]

    @property
    def said(self) -> str:
        return self._said.read_text()

    def line(self, number: int) -> str:
        eventually(lambda: len(self.lines) >= number or self.process.poll() is not None, 20)
        assert len(self.lines) >= number, self.said
        return self.lines[number - 1]

    @staticmethod
    def links(line: str) -> list[str]:
        return [part.split()[0] for part in line.split("links at ")[1:]]

    @property
    def http(self) -> str:
        return self.started.split("HTTP at ")[1].split()[0]

    @property
    def grpc(self) -> str:
        return self.started.split("gRPC at ")[1].split()[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0, self.said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokens").write_text("# who may call\n\nopen-sesame  alibaba\n")
    return tmp_path


@pytest.fixture
def guarded(environment: dict[str, str], folder: Path) -> Iterator[Program]:
    program = Program(environment, folder, "--token-file", "tokens")
    yield program
    program.stop()


def test_links_are_taken_unless_told_otherwise(
    run: Run, environment: dict[str, str], folder: Path
) -> None:
    program = Program(environment, folder, "--name", "forge/captioner/one")
    [link] = program.links(program.started)
    assert link.startswith("link+tcp://127.0.0.1:")
    assert not link.endswith(":0")
    done = run("call", link, STYLES)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}
    words = run("call", link, "forge.captioner.v1.CaptionerService/Caption", '{"prompt": "x"}')
    assert words.returncode == 0
    assert len(words.stdout.splitlines()) > 1
    shown = [json.loads(line) for line in run("ps", "--json").stdout.splitlines()]
    [mine] = [one for one in shown if one["name"] == "forge/captioner/one"]
    assert mine["endpoints"][0] == link
    assert link in run("ps").stdout
    program.stop()
    quiet = Program(environment, folder, "--no-link")
    assert not quiet.links(quiet.started)
    quiet.stop()


def test_the_carrier_changes_at_run_time(
    run: Run, environment: dict[str, str], folder: Path
) -> None:
    places = folder / "links"
    places.write_text("# one a line\nlink+tcp://127.0.0.1:0\n")
    program = Program(environment, folder, "--link", "@links", "--name", "forge/captioner/two")
    [first] = program.links(program.started)
    unix = f"link+unix:{folder / 'x.sock'}"

    async def across() -> None:
        async with connect(first) as plane:
            client = CaptionerClient(plane)
            await client.list_styles(ListStylesRequest(), timeout_s=10)
            before = client.caption(CaptionRequest(prompt="the sea", max_words=20))
            assert (await anext(before)).text
            places.write_text(f"{unix}\n")
            program.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while len(program.lines) < 2:
                    await asyncio.sleep(0.02)
                    await client.list_styles(ListStylesRequest(), timeout_s=10)
                for _ in range(20):
                    await client.list_styles(ListStylesRequest(), timeout_s=10)
            [route] = plane.routes
            assert getattr(route, "address", "") == unix
            assert len([chunk async for chunk in before]) == 19

    asyncio.run(across())
    assert program.links(program.line(2)) == [unix]
    shown = [json.loads(line) for line in run("ps", "--json").stdout.splitlines()]
    [mine] = [one for one in shown if one["name"] == "forge/captioner/two"]
    assert mine["endpoints"][0] == unix
    assert not any(each.startswith("link+tcp:") for each in mine["endpoints"])

    # What does not do changes nothing.
    places.write_text("link+nonsense://x\n")
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: "links are taken where they were" in program.said)
    assert "Traceback" not in program.said
    assert run("call", unix, STYLES).returncode == 0
    program.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--link", "link+tcp://127.0.0.1:0", "--no-link"], 2, "contradict"),
        (["--link", "tcp://127.0.0.1:0"], 1, "is no link's address"),
        (["--link", "link+tcp://127.0.0.1:TAKEN"], 1, "TAKEN"),
        (["--link", "link+tls://127.0.0.1:0"], 1, "needs a certificate"),
        (["--link", "link+grpc://127.0.0.1:0"], 1, "come in through those doors"),
        (["--link", "@nothing"], 1, "No such file"),
        (["--link", "link+tcp://127.0.0.1:4711", "--workers", "2"], 1, "cannot share"),
        (["--link", "link+unix:/tmp/x.sock", "--workers", "2"], 1, "cannot share"),
        (["--link", "@links", "--workers", "2"], 2, "one worker"),
        (["--name", "forge/a", "--workers", "2"], 2, "--name"),
        (["--name", "forge"], 1, "names no instance"),
        (["--token-file", "nothing"], 1, "No such file"),
        (["--token-file", "empty"], 2, "holds no token"),
        (["--token-file", "wrong"], 2, "line 2"),
    ],
)
def test_serve_says_what_is_wrong(
    run: Run, folder: Path, arguments: list[str], code: int, said: str
) -> None:
    (folder / "empty").write_text("# nobody\n")
    (folder / "wrong").write_text("good-token alice\nsecret-token\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [argument.replace("TAKEN", port) for argument in arguments]
        done = run("serve", CAPTIONER, *PLACE, *given, cwd=folder)
    assert done.returncode == code, done.stderr
    assert said.replace("TAKEN", port) in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret-token" not in done.stderr


def test_workers_have_a_link_each(environment: dict[str, str], folder: Path) -> None:
    program = Program(environment, folder, "--workers", "2")
    first, second = (program.links(program.line(number)) for number in (1, 2))
    assert len({*first, *second}) == 2
    program.stop()


def test_every_door_wants_the_token(run: Run, guarded: Program, folder: Path) -> None:
    [link] = guarded.links(guarded.started)
    publish = ["publish", "a/b", "{}", "--type", FINISHED, "--at", guarded.http]
    listen = ["listen", "**", "--at", guarded.http, "--after", "earliest", "--count", "1"]
    commands = [["call", at, STYLES] for at in (guarded.grpc, guarded.http, link)]
    for command in [*commands, publish, listen]:
        done = run(*command)
        assert done.returncode == 1, command
        assert "UNAUTHENTICATED" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        done = run(*command, "--token-file", str(folder / "tokens"))
        assert done.returncode == 0, done.stderr
    for page in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        with socket.create_connection(("127.0.0.1", int(guarded.http.rpartition(":")[2]))) as http:
            http.sendall(f"GET {page} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            assert http.recv(100).startswith(b"HTTP/1.1 200"), page


def test_a_token_from_the_environment(guarded: Program, environment: dict[str, str]) -> None:
    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "call", guarded.grpc, STYLES, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**environment, **more},
        )

    assert call("--token-env", "SESAME", SESAME="open-sesame").returncode == 0
    wrong = call("--token-env", "SESAME", SESAME="closed")
    assert wrong.returncode == 1
    assert "closed" not in wrong.stderr
    assert call("--token-env", "SESAME").returncode == 2
    assert call("--token-env", "SESAME", "--token-file", "x").returncode == 2
    assert call("--token-file", "/no/such/file").returncode == 2


def test_a_wrong_token_is_refused_by_each_door(guarded: Program) -> None:
    async def ask(target: str) -> Code:
        async with connect(target, token="closed") as plane:
            with pytest.raises(PlaneError) as caught:
                await plane.request(None, STYLES, b"", timeout_s=10)
            return caught.value.code

    for target in (guarded.grpc, guarded.http, *guarded.links(guarded.started)):
        assert asyncio.run(ask(target)) is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("target", "method", "said"),
    [
        ("link+tcp://127.0.0.1:1", "ListStyles", "package.Service/Method"),
        ("link+tcp://127.0.0.1:1", "no.such.v1.Service/Method", "protoplane generate"),
        ("link+tcp://127.0.0.1:1", "forge.captioner.v1.NoService/Method", "no service NoService"),
        ("link+tcp://127.0.0.1:1", "forge.captioner.v1.CaptionerService/No", "ListStyles"),
        ("link+tcp://127.0.0.1:1", STYLES, "cannot reach"),
        ("inproc:x", STYLES, "inside the process"),
    ],
)
def test_calls_over_a_link_say_what_is_wrong(run: Run, target: str, method: str, said: str) -> None:
    done = run("call", target, method)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
