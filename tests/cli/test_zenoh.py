"""Processes that find each other by the engine zenoh:, without a broker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Run, Served, eventually
from tests.runtime.zenoh_network import free_port

from forge.captioner.v1 import CaptionerClient, ListStylesRequest
from protoplane_client import connect

CAPTIONER = "protoplane_components.captioner:Captioner"
PLACE = ["--grpc", "0", "--http", "0"]
FINISHED = "forge.captioner.v1.CaptionFinished"


@pytest.fixture
def hub() -> str:
    return f"tcp/127.0.0.1:{free_port()}"


@pytest.fixture
def served(environment: dict[str, str], hub: str, tmp_path: Path) -> Iterator[list[Served]]:
    engines = [
        f"zenoh:?listen={hub}&folder={tmp_path}/one",
        f"zenoh:{hub}?listen=tcp/127.0.0.1:0&folder={tmp_path}/two",
    ]
    running = [Served(environment, CAPTIONER, *PLACE, "--engine", engine) for engine in engines]
    yield running
    for each in reversed(running):
        if each.process.poll() is None:
            assert each.stop() == 0


def kill(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    assert served.process.stderr is not None
    served.process.stderr.close()


def test_found_by_name(run: Run, hub: str, served: list[Served]) -> None:
    engine = ["--engine", f"zenoh:{hub}?listen=tcp/127.0.0.1:0"]
    there = run("ps", "--json", *engine)
    assert there.returncode == 0, there.stderr
    assert len(there.stdout.splitlines()) == 2
    done = run("call", "forge/captioner", "ListStyles", *engine)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}

    async def call() -> int:
        async with connect("forge/captioner", engine=engine[1]) as plane:
            reply = await CaptionerClient(plane).list_styles(ListStylesRequest())
        return len(reply.styles)

    assert asyncio.run(call()) == 2
    # What is published at one node is read at the other, and once by who asks both.
    done = run(
        "publish", "forge/captions/1", '{"words": 7}', "--type", FINISHED, "--at", served[0].http
    )
    assert done.returncode == 0, done.stderr
    for at in (served[1].http, "forge/captioner"):
        heard = run(
            "listen", "forge/**", "--at", at, *engine, "--after", "earliest", "--count", "1"
        )
        assert json.loads(heard.stdout)["message"] == {"words": 7}
    kill(served[1])
    eventually(lambda: len(run("ps", "--json", *engine).stdout.splitlines()) == 1)
