"""One engine behind several processes: found by name, one log of events, gone when they die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import COMMAND, Run, Served, eventually, shown

from forge.captioner.v1 import CaptionerClient, CaptionFinished, ListStylesRequest
from protoplane_client import Received, connect
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.log_groups import NAMESPACE
from protoplane_runtime.engines.opening import open_engine

CAPTIONER = "protoplane_components.captioner:Captioner"
PLACE = ["--grpc", "0", "--http", "0"]
FINISHED = "forge.captioner.v1.CaptionFinished"
NAME = "forge/captioner/one"


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return f"local:{tmp_path / 'engine'}"


@pytest.fixture
def one(environment: dict[str, str], engine: str) -> Iterator[Served]:
    served = Served(environment, CAPTIONER, *PLACE, "--engine", engine, "--name", NAME)
    yield served
    if served.process.poll() is None:
        assert served.stop() == 0


def listed(run: Run, engine: str, *arguments: str) -> list[dict[str, Any]]:
    done = run("ps", "--json", "--engine", engine, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def kill(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    assert served.process.stderr is not None
    served.process.stderr.close()


def test_commands_take_a_name(run: Run, one: Served, engine: str) -> None:
    for name in (NAME, "forge/captioner", "forge"):
        done = run("call", name, "ListStyles", "--engine", engine)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"styles": ["STYLE_PLAIN", "STYLE_VIVID"]}
    at = ["--at", "forge/captioner", "--engine", engine]
    done = run("publish", "forge/captions/1", '{"words": 7}', "--type", FINISHED, *at)
    assert done.returncode == 0, done.stderr
    heard = run("listen", "forge/**", *at, "--after", "earliest", "--count", "1")
    assert json.loads(heard.stdout)["id"] == done.stdout.strip()
    [mine] = listed(run, engine)
    assert mine["name"] == NAME
    assert mine["pid"] == one.process.pid
    kinds = [endpoint.partition(":")[0] for endpoint in mine["endpoints"]]
    assert kinds == ["link+tcp", "link+grpc", "grpc", "http"]


def test_publish_names_its_publication(run: Run, one: Served, engine: str) -> None:
    assert one.http
    at = ["--type", FINISHED, "--at", NAME, "--engine", engine]
    event = ["publish", "forge/captions/1", '{"words": 7}', *at, "--publisher", "cameras"]
    first, again = (run(*event, "--number", "4") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert again.stdout == first.stdout
    half = run(*event)
    assert half.returncode == 2
    assert "go together" in half.stderr


def test_an_engine_whose_folder_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for command in (["ps"], ["ps", "--watch"]):
        done = run(*command, "--engine", f"local:{tmp_path / 'file'}")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "name another folder" in done.stderr


def test_nobody_of_a_name(run: Run, engine: str) -> None:
    done = run("call", "forge/captioner", "ListStyles", "--engine", engine)
    assert done.returncode == 1
    assert done.stderr.count("nobody serves forge/captioner") == 1
    assert len(done.stderr.splitlines()) == 1
    assert "nobody serves forge" in run("ps", "forge", "--engine", engine).stdout
    wrong = run("serve", CAPTIONER, *PLACE, "--engine", "nonsense:")
    assert wrong.returncode == 1
    assert "there is no engine nonsense:" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_name_is_taken_once(run: Run, one: Served, engine: str) -> None:
    assert one.http
    done = run("serve", CAPTIONER, *PLACE, "--engine", engine, "--name", NAME)
    assert done.returncode == 1
    assert "registered already" in done.stderr
    assert "Traceback" not in done.stderr


def test_namespaces_are_apart(run: Run, environment: dict[str, str], engine: str) -> None:
    blue = ["--engine", engine, "--namespace", "blue"]
    served = Served(environment, CAPTIONER, *PLACE, *blue)
    assert not listed(run, engine)
    assert [each["namespace"] for each in listed(run, engine, "--namespace", "blue")] == ["blue"]
    assert len(listed(run, engine, "--all-namespaces")) == 1
    assert run("call", "forge/captioner", "ListStyles", "--engine", engine).returncode == 1
    assert run("call", "forge/captioner", "ListStyles", *blue).returncode == 0
    assert served.stop() == 0


def test_members_of_consumer_groups_are_no_components(run: Run, engine: str) -> None:
    async def scenario() -> None:
        own = await open_engine(engine)
        member = asyncio.ensure_future(anext(own.groups.consume("g", ["**"])))
        async with asyncio.timeout(30):
            while not await own.discovery.instances(namespace=NAMESPACE):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await asyncio.to_thread(listed, run, engine, "--all-namespaces") == []
        [there] = await asyncio.to_thread(listed, run, engine, "--namespace", NAMESPACE)
        assert there["pid"] == os.getpid()
        member.cancel()
        await asyncio.wait([member])
        await own.close()

    asyncio.run(scenario())


def test_ps_watch_tells_who_comes_and_goes(
    environment: dict[str, str], one: Served, engine: str
) -> None:
    with shown(environment, "ps", "--watch", "--json", "--engine", engine) as process:
        assert process.stdout is not None
        other = Served(environment, CAPTIONER, *PLACE, "--engine", engine)
        # Those whose load changes say so too.
        lines = (json.loads(line) for line in iter(process.stdout.readline, ""))
        told = (each for each in lines if each["change"] != "changed")
        assert [next(told)["change"] for _ in range(2)] == ["joined", "joined"]
        assert other.stop() == 0
        assert next(told)["change"] == "left"
        kill(one)
        left = next(told)
        assert (left["change"], left["instance"]["name"]) == ("left", NAME)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_who_was_killed_is_gone(run: Run, one: Served, engine: str) -> None:
    assert len(listed(run, engine)) == 1
    kill(one)
    assert not listed(run, engine)


def test_events_outlive_their_process(environment: dict[str, str], engine: str) -> None:
    """`Last-Event-ID` over a SIGKILL: the next process has the same log, and nothing is missing."""
    place = ["--http-only", "--http", "0", "--engine", engine]

    async def scenario() -> None:
        first = Served(environment, CAPTIONER, *place)
        async with connect(first.http) as plane:
            ids = [
                str(await plane.publish(f"forge/captions/{n}", CaptionFinished(words=n)))
                for n in range(3)
            ]
        kill(first)
        second = Served(environment, CAPTIONER, *place)
        async with connect(second.http) as plane, asyncio.timeout(20):
            fresh = str(await plane.publish("forge/captions/3", CaptionFinished(words=3)))
            got: list[str] = []
            async for event in plane.subscribe("forge/**", after=ids[0]):
                assert isinstance(event, Received)
                got.append(event.id)
                if len(got) == 3:
                    break
            assert got == [*ids[1:], fresh]
        assert second.stop() == 0

    asyncio.run(scenario())


def test_workers_share_one_log(environment: dict[str, str], engine: str, tmp_path: Path) -> None:
    """What one worker publishes the other tells; and nobody is warned that it would not."""
    said = tmp_path / "said.txt"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "serve", CAPTIONER, *PLACE, "--workers", "2", "--engine", engine],
            stderr=stderr,
            env=environment,
        )
    eventually(lambda: said.read_text().count(" at http://") == 2, 30)

    async def scenario() -> None:
        async with connect("forge/captioner", engine=engine) as plane, asyncio.timeout(30):

            async def hear() -> list[str]:
                events = plane.subscribe("a/*", after=Start.EARLIEST)
                return [(await anext(events)).key for _ in range(20)]  # type: ignore[union-attr]

            hearing = asyncio.create_task(hear())
            for number in range(20):
                await plane.publish(f"a/{number}", CaptionFinished(), entity="forge/captioner")
            assert await hearing == [f"a/{number}" for number in range(20)]
            await CaptionerClient(plane).list_styles(ListStylesRequest(), timeout_s=10)
            assert len(plane.routes) == 2

    asyncio.run(scenario())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "event log" not in said.read_text()


def test_a_named_plane_goes_on_elsewhere(environment: dict[str, str], engine: str) -> None:
    """Calls and events of a name survive the process that carried them."""

    async def scenario() -> None:
        first = Served(environment, CAPTIONER, *PLACE, "--engine", engine)
        async with connect("forge/captioner", engine=engine) as plane, asyncio.timeout(40):
            client = CaptionerClient(plane)
            await client.list_styles(ListStylesRequest())
            events = plane.subscribe("a/*", after=Start.EARLIEST)
            await plane.publish("a/1", CaptionFinished())
            assert (await anext(events)).key == "a/1"  # type: ignore[union-attr]
            second = await asyncio.to_thread(
                Served, environment, CAPTIONER, *PLACE, "--engine", engine
            )
            kill(first)
            for _ in range(20):
                await client.list_styles(ListStylesRequest(), timeout_s=10)
            await plane.publish("a/2", CaptionFinished())
            assert (await anext(events)).key == "a/2"  # type: ignore[union-attr]
            assert len(plane.routes) == 1
            await events.aclose()  # type: ignore[attr-defined]
        assert second.stop() == 0

    asyncio.run(scenario())


def test_the_environment_names_the_engine(
    run: Run, environment: dict[str, str], one: Served, engine: str
) -> None:
    assert one.http
    done = subprocess.run(
        [*COMMAND, "ps", "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PROTOPLANE_ENGINE": engine},
    )
    assert json.loads(done.stdout)["name"] == NAME
    assert not [each for each in listed(run, "memory:") if each["pid"] == os.getpid()]
