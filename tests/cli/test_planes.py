"""``protoplane serve --planes`` and ``protoplane stats``."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Run, Served, shown

CAPTIONER = "protoplane_components.captioner:Captioner"
NAME = "forge/captioner/one"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{tmp_path_factory.mktemp('engine')}"


@pytest.fixture(scope="module")
def gateway(environment: dict[str, str], engine: str) -> Iterator[Served]:
    served = Served(
        environment, "--planes", "--http-only", "--http", "0", "--engine", engine, "--no-link"
    )
    yield served
    assert served.stop() == 0


@pytest.fixture(scope="module")
def captioner(environment: dict[str, str], engine: str) -> Iterator[Served]:
    place = ["--http-only", "--http", "0", "--name", NAME, "--engine", engine]
    served = Served(environment, CAPTIONER, *place)
    yield served
    assert served.stop() == 0


def test_an_engine_for_other_languages(run: Run, gateway: Served, engine: str) -> None:
    listed = run("ps", "--json", "--engine", engine)
    assert "protoplane/planes/" in listed.stdout
    put = ["protoplane.v1.State/Put", '{"key": "a/b", "value": "dGhyZWU="}']
    done = run("call", gateway.http, *put)
    assert done.returncode == 0, done.stderr
    done = run("call", gateway.http, "protoplane.v1.State/Get", '{"key": "a/b"}')
    assert json.loads(done.stdout)["entry"]["value"] == "dGhyZWU="


def test_stats_of_all(run: Run, gateway: Served, captioner: Served, engine: str) -> None:
    assert run("call", captioner.http, "forge.captioner.v1.CaptionerService/ListStyles").stdout
    done = run("stats", "--engine", engine, "--json")
    assert done.returncode == 0, done.stderr
    found = {each["instance"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert len(found) == 2
    methods = {each["method"]: each for each in found[NAME]["methods"]}
    assert methods["/forge.captioner.v1.CaptionerService/ListStyles"]["ended"] == {"OK": "1"}
    done = run("stats", "forge/captioner", "--engine", engine)
    assert [json.loads(line)["instance"] for line in done.stdout.splitlines()] == [NAME]


def test_stats_again_and_again(environment: dict[str, str], captioner: Served, engine: str) -> None:
    with shown(
        environment, "stats", "forge", "--watch", "--every", "0.1", "--json", "--engine", engine
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["instance"] == NAME
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_nobody_there(run: Run, tmp_path: Path) -> None:
    done = run("stats", "mill", "--engine", f"local:{tmp_path}")
    assert (done.returncode, done.stdout) == (0, "")


def test_what_cannot_be_served(run: Run) -> None:
    done = run("serve")
    assert done.returncode == 2
    assert "--planes" in done.stderr
    done = run("serve", CAPTIONER, "--objects", "memory:")
    assert done.returncode == 2
    assert "--objects goes with --planes" in done.stderr
    done = run("serve", "--planes", "--objects", "floppy:", "--http", "0", "--http-only")
    assert done.returncode == 1
    assert "'floppy:' is no object store" in done.stderr
    assert "Traceback" not in done.stderr
