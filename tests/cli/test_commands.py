"""Each command does its work, and says its errors on one line."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.cli.conftest import COMMAND, Run, Served, eventually, shown

from protoplane_runtime.cli import main

FINISHED = "forge.captioner.v1.CaptionFinished"


def paths_of(command: click.Command, *names: str) -> Iterator[tuple[str, ...]]:
    """The names of a command and of all below it."""
    if names:
        yield names
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from paths_of(found, *names, name)


@pytest.mark.parametrize("path", [*paths_of(main)], ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert f"protoplane {' '.join(path)}" in done.output.partition("Example")[2]


def test_help_of_the_program(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert {"call", "serve", "ps"} <= {line.split()[0] for line in done.stdout.splitlines() if line}


@pytest.mark.parametrize("door", ["grpc", "http"])
def test_call_each_kind(run: Run, served: Served, door: str) -> None:
    target = served.grpc if door == "grpc" else served.http

    def call(*arguments: str, stdin: str = "") -> list[object]:
        done = run("call", target, *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    styles = {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}
    assert call("ListStyles") == [styles]
    words = call("CaptionerService/Caption", '{"prompt": "The sea", "maxWords": 3}')
    assert len(words) == 3
    joined = {"text": "ab", "chunks": 2}
    assert call("Collect", '{"text": "a"}', '{"text": "b"}') == [joined]
    assert call("Collect", "-", stdin='{"text":\n"a"} {"text": "b"}') == [joined]
    full = "forge.captioner.v1.CaptionerService/Converse"
    assert len(call(full, '{"line": "x"}', '{"line": "y"}')) == 2


def test_call_shows_a_stream_as_it_comes(served: Served, environment: dict[str, str]) -> None:
    with shown(environment, "call", served.grpc, "Converse", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write('{"line": "the sea"}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"]
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["GRPC", "Nope"], 1, "there are forge.captioner.v1.CaptionerService/Caption"),
        (["HTTP", "Nope"], 1, "there are forge.captioner.v1.CaptionerService/Caption"),
        (["GRPC", "Caption", "{"], 2, "is not JSON"),
        (["GRPC", "Caption", "@/no/such/file"], 2, "No such file"),
        (["GRPC", "Caption", '{"promt": "x"}'], 1, "promt"),
        (["HTTP", "Caption", '{"promt": "x"}'], 1, "promt"),
        (["GRPC", "Caption", "{}"], 1, "INVALID_ARGUMENT: prompt is empty"),
        (["HTTP", "Caption", "{}"], 1, "INVALID_ARGUMENT: prompt is empty"),
        (["GRPC", "Caption"], 1, "INVALID_ARGUMENT: prompt is empty"),
        (["HTTP", "Caption"], 1, "INVALID_ARGUMENT: prompt is empty"),
        (["GRPC", "Caption", '{"prompt": "x"}', "--timeout", "0.1"], 1, "DEADLINE_EXCEEDED"),
        (["HTTP", "Caption", '{"prompt": "x"}', "--timeout", "0.1"], 1, "DEADLINE_EXCEEDED"),
        (["127.0.0.1:1", "Caption"], 1, "cannot reach 127.0.0.1:1"),
        (["http://127.0.0.1:1", "a.B/C"], 1, "cannot reach http://127.0.0.1:1"),
        (["forge/nobody", "Caption"], 1, "nobody serves forge/nobody"),
        (["GRPC", "Caption", "--metadata", "x"], 2, "NAME=VALUE"),
        (["GRPC", "ListStyles", "{}", "{}"], 2, "takes one request"),
        (["grpcs://127.0.0.1:1", "A", "--tls-ca", "/no/such/file"], 1, "No such file"),
    ],
)
def test_call_says_its_errors(
    run: Run, served: Served, arguments: list[str], code: int, said: str
) -> None:
    places = {"GRPC": served.grpc, "HTTP": served.http}
    done = run("call", *(places.get(argument, argument) for argument in arguments))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1


def test_publish_and_listen(run: Run, served: Served) -> None:
    key = "forge/captions/42"
    done = run("publish", key, '{"words": 7}', "--type", FINISHED, "--at", served.http)
    assert done.returncode == 0, done.stderr
    id_ = done.stdout.strip()
    recent = run("listen", key, "--at", served.http, "--after", "1h", "--count", "1", "--json")
    assert recent.returncode == 0, recent.stderr
    heard = run("listen", key, "--at", served.http, "--after", "earliest", "--count", "1")
    assert json.loads(heard.stdout) == {
        "id": id_,
        "key": key,
        "type": FINISHED,
        "message": {"words": 7},
    }
    for arguments in (
        ["publish", key, '{"nope": 7}', "--type", FINISHED, "--at", served.http],
        ["publish", key, "{}", "--type", "no.such.Type", "--at", served.http],
        ["publish", key, "{}", "--type", FINISHED, "--at", "http://127.0.0.1:1"],
        ["listen", "a//b", "--at", served.http],
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert run("listen", "a", "--after", "x").returncode == 2


def test_ps_shows_what_runs_and_drops_what_died(
    run: Run, served: Served, environment: dict[str, str]
) -> None:
    assert "forge/captioner/" in run("ps").stdout
    place = ["--grpc", "0", "--http", "0"]
    other = Served(environment, "protoplane_components.captioner:Captioner", *place)

    def shown() -> set[int]:
        lines = run("ps", "--json").stdout.splitlines()
        return {json.loads(line)["pid"] for line in lines}

    eventually(lambda: {served.process.pid, other.process.pid} <= shown())
    other.process.kill()
    other.process.wait()
    assert other.process.stderr is not None
    other.process.stderr.close()
    assert other.process.pid not in shown()


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("captioner", 2, "captioner:Captioner"),
        ("nope:Nope", 2, "no module 'nope'"),
        ("broken:Nope", 1, "broken.py, line 2"),
        ("json:loads", 1, "json:loads cannot be served"),
    ],
)
def test_serve_says_its_errors(run: Run, tmp_path: Path, name: str, code: int, said: str) -> None:
    (tmp_path / "broken.py").write_text("\n1 / 0\n")
    done = run("serve", name, "--grpc", "0", "--http", "0", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_said(run: Run, served: Served) -> None:
    port = served.http.rpartition(":")[2]
    name = "protoplane_components.captioner:Captioner"
    done = run("serve", name, "--http-only", "--http", port)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_http_only(run: Run, environment: dict[str, str]) -> None:
    name = "protoplane_components.captioner:Captioner"
    alone = Served(environment, name, "--http-only", "--http", "0")
    assert not alone.grpc
    assert run("call", alone.http, "ListStyles").returncode == 0
    listed = [json.loads(line) for line in run("ps", "--json").stdout.splitlines()]
    assert [each["endpoints"] for each in listed if each["pid"] == alone.process.pid] == [
        [alone.http]
    ]
    assert alone.stop() == 0


@pytest.mark.codegen
def test_a_new_project_works_at_once(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    assert run("new", "acme/kv-router", cwd=tmp_path).returncode == 0
    project = tmp_path / "kv-router"
    done = run("generate", "proto", "--out", "generated", cwd=project)
    assert done.returncode == 0, done.stderr
    served = Served(environment, "kv_router:KvRouter", "--grpc", "0", "--http", "0", cwd=project)
    done = run("call", served.grpc, "Tell", '{"prompt": "a b"}')
    assert done.stdout.splitlines() == ['{"text": "a"}', '{"text": "b"}']
    assert served.stop() == 0
    tested = subprocess.run(
        [COMMAND[0], "-m", "pytest", "-q"], cwd=project, env=environment, check=False
    )
    assert tested.returncode == 0
    assert run("new", "acme/kv-router", cwd=tmp_path).returncode == 1
    assert run("new", "Acme", cwd=tmp_path).returncode == 2


def test_reload(run: Run, environment: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    text = (
        "from forge.captioner.v1 import CaptionerService, CollectResponse\n"
        "class Mine(CaptionerService):\n"
        "    async def collect(self, requests, ctx):\n"
        "        return CollectResponse(text='before')\n"
    )
    source.write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    served = Served(
        environment, "mine:Mine", "--http-only", "--http", port, "--reload", cwd=tmp_path
    )

    def answers(word: str) -> bool:
        return word in run("call", served.http, "Collect", "{}").stdout

    assert answers("before")
    source.write_text(text.replace("before", "after_"))
    eventually(lambda: answers("after_"), 20)
    assert served.stop() == 0


def test_demo_once(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("demo", "--once", "--grpc", port, "--http", "0")
    assert done.returncode == 0, done.stderr
    assert f"port {port} is taken" in done.stdout
    assert done.stdout.count("24 chunks") == 3
    assert done.stdout.count("CaptionFinished") == 3
    for line in ("curl http://127.0.0.1:", "buf curl --protocol grpc"):
        assert line in done.stdout
