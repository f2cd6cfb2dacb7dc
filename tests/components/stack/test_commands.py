"""``protoplane up`` and ``down``: the whole stack, from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click
import pytest
from click.testing import CliRunner, Result
from tests.components.stack.stacks import LIMIT_S, Watched, gone, role
from tests.components.stack.terminals import terminal

from protoplane_client.commands.ps import ps
from protoplane_components.commands.chat import chat
from protoplane_components.commands.down import down
from protoplane_components.commands.up import up
from protoplane_components.stack.records import Phase, StackRecord

COMMAND = [sys.executable, "-c", "from protoplane_runtime.cli import main; main()"]
ROLES = ["gateway", "orchestrator", "registry", "router", "worker-1", "worker-2"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
        env={**os.environ, "COLUMNS": "150", "PYTHONWARNINGS": "error"},
    )


def within(command: click.Command, *arguments: str, piped: str = "") -> Result:
    """Run a command that starts no stack in this process."""
    return CliRunner().invoke(command, [*arguments], input=piped)


def ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urlopen(Request(url, data, headers), timeout=LIMIT_S) as answer:
        return json.loads(answer.read())


def test_the_whole_stack(tmp_path: Path) -> None:
    with Watched.over(tmp_path) as watched:
        common = ("--folder", str(tmp_path))
        wanted = ("--workers", "2", "--http", "127.0.0.1:0", "--detach", "--json")
        started = run("up", *common, *wanted)
        assert started.returncode == 0, started.stderr
        record = StackRecord.model_validate_json(started.stdout)
        assert record.phase is Phase.READY
        assert record.detached
        assert [each.role for each in record.processes] == ROLES

        [model, *_] = [each["id"] for each in ask(f"{record.http}/v1/models")["data"]]
        message = {"role": "user", "content": "Tell me a story"}
        question = {"model": model, "messages": [message], "max_tokens": 4}
        answer = ask(f"{record.http}/v1/chat/completions", question)
        assert answer["usage"]["completion_tokens"] == 4
        assert answer["choices"][0]["message"]["content"]

        worker = role(record, "worker-1")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        watched.until(lambda record: role(record, "worker-1").restarts == 1)
        again = watched.ready()
        assert role(again, "worker-1").instance not in ("", worker.instance)
        # Discovery has the new one in the place of the old one.
        there = within(ps, "--engine", f"local:{tmp_path}", "--json").stdout.splitlines()
        names = {each["name"] for each in map(json.loads, there)}
        assert names == {each.instance for each in again.processes}
        # On a narrow terminal names are whole, to be copied.
        narrow = CliRunner().invoke(ps, ["--engine", f"local:{tmp_path}"], env={"COLUMNS": "70"})
        named = [line.split()[0] for line in narrow.stdout.splitlines() if "/" in line[:12]]
        assert named == sorted(names)

        said = within(chat, *common, "--json", "--max-tokens", "4", piped="Tell me a story")
        assert said.exit_code == 0, said.stderr
        assert json.loads(said.stdout)["usage"]["completion_tokens"] == 4

        twice = within(up, *common, *wanted)
        assert twice.exit_code == 0, twice.stderr
        assert StackRecord.model_validate_json(twice.stdout).owner == record.owner
        other = within(up, *common, "--workers", "3")
        assert other.exit_code == 1
        assert f"it is up already at {record.http}" in other.stdout
        assert "has 2 workers and the policy kv, not 3 and kv" in other.stderr

        done = within(down, *common, "--json")
        assert done.exit_code == 0, done.stderr
        ended = json.loads(done.stdout)
        assert (ended["outcome"], ended["processes"]) == ("stopped", 6)
        assert gone(again)
        assert watched.place.owner() is None
        assert within(down, *common).stdout == f"no stack is up in {tmp_path}\n"


def test_two_at_once_bring_up_one(tmp_path: Path) -> None:
    command = [*COMMAND, "up", "--detach", "--folder", str(tmp_path), "--workers", "1"]
    with Watched.over(tmp_path) as watched:
        both = [
            subprocess.Popen([*command, "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        told = sorted(each.communicate(timeout=2 * LIMIT_S)[0] for each in both)
        assert [each.returncode for each in both] == [0, 0]
        # Both return once chats are answered.
        record = watched.place.read()
        assert record is not None
        assert record.phase is Phase.READY
        assert told[0].startswith(f"it is up already at {record.http}; ")
        assert told[1] == f"up at {record.http}\n"
        assert within(down, "--folder", str(tmp_path)).stdout == "ended 5 processes\n"


def test_the_table_is_shown_until_ctrl_c(tmp_path: Path) -> None:
    arguments = ("--folder", str(tmp_path), "--workers", "1", "--http", "127.0.0.1:0")
    with Watched.over(tmp_path) as watched, terminal("up", *arguments) as shown:
        shown.until("PROCESS")
        record = watched.ready()
        shown.until(f"protoplane chat --folder {tmp_path} talks to it")
        shown.until(f"{record.http}/console shows it")
        worker = role(record, "worker-1")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        shown.until("(killed by SIGKILL)")
        again = watched.until(lambda record: role(record, "worker-1").restarts == 1)
        shown.until(str(role(again, "worker-1").pid))
        shown.type("\x03")
        shown.until("ended")
        assert shown.ends() == 0
        assert gone(again)
        assert watched.place.owner() is None


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("up", "--detach", "--folder", str(tmp_path), "--http", address)
    assert done.returncode == 1
    words = f"{address} is taken by another program; give the gateway another place by --http"
    assert done.stderr == f"error: UNAVAILABLE: {words}\n"
    assert within(down, "--folder", str(tmp_path)).stdout == f"no stack is up in {tmp_path}\n"


@pytest.mark.parametrize("how", ["--detach", "--json"])
def test_what_cannot_start_ends_the_stack(tmp_path: Path, how: str) -> None:
    with Watched.over(tmp_path) as watched:
        done = run(
            "up", how, "--folder", str(tmp_path), "--http", "127.0.0.1:0", "--backend", "nonsense:"
        )
        assert done.returncode == 1
        assert "the stack does not start: worker-" in done.stderr
        assert "nonsense" in done.stderr
        assert done.stderr.count("\n") == 1
        assert watched.place.owner() is None
        if how == "--json":
            last = StackRecord.model_validate_json(done.stdout.splitlines()[-1])
            assert last.phase is Phase.FAILED
            assert {each.phase for each in last.processes} == {Phase.ENDED}
            assert gone(last)


@pytest.mark.parametrize("command", [up, down, chat])
def test_help_has_an_example(command: click.Command) -> None:
    done = CliRunner().invoke(command, ["--help"])
    assert f"protoplane {command.name}" in done.stdout.partition("Example")[2]


@pytest.mark.parametrize("address", ["unix:/x.sock", "nowhere"])
def test_an_address_that_does_not_do(address: str) -> None:
    done = CliRunner().invoke(up, ["--http", address])
    assert done.exit_code == 2
    assert address in done.stderr
