"""The engine `nats:` as a whole: its URL, its one connection, and a cluster that loses a server."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, NatsServers, cluster_url, nats_server, needs_nats_server
from tests.runtime.discovery_suite import ONE, TWO, Watch
from tests.runtime.event_log_suite import publish, take

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.opening import open_discovery, open_engine
from protoplane_runtime.engines.state import Entry, Snapshot

nats = pytest.importorskip("nats")

_WITHOUT = """\
import asyncio, sys
sys.modules["nats"] = None
from protoplane_runtime.engines.opening import check_url, open_engine
check_url("nats://127.0.0.1")
asyncio.run(open_engine("nats://127.0.0.1"))
"""

pytestmark = [needs_nats_server, pytest.mark.anyio]


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    with nats_server(tmp_path, jetstream=tmp_path / "jetstream") as running:
        yield running


async def test_a_url_opens_all_of_it_over_one_connection(server: NatsServer) -> None:
    before = asyncio.all_tasks()
    engine = await open_engine(server.url)
    event_id = await publish(engine.events, "a/1", durable=True)
    [event] = await take(engine.events.read(["**"], after=Start.EARLIEST), 1)
    assert event.id == event_id
    revision = await engine.state.put("a/1", b"x")
    assert await engine.state.get("a/1") == Entry("a/1", b"x", revision)
    discovery = await open_discovery(server.url)
    async with engine.discovery.register(ONE):
        assert list(await discovery.instances("forge/captioner")) == [ONE]
    await discovery.close()
    await engine.close()
    await engine.close()
    for use in (
        publish(engine.events, "a/1"),
        engine.state.get("a/1"),
        engine.discovery.instances(),
    ):
        with pytest.raises(PlaneError) as caught:
            await use
        assert caught.value.code is Code.UNAVAILABLE
    async with asyncio.timeout(10):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_replicas_are_those_of_the_buckets_too(server: NatsServer) -> None:
    with pytest.raises(PlaneError) as caught:
        await open_engine(f"{server.url}?replicas=3")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "replicas" in caught.value.message
    # What was opened before is closed: the server goes on.
    engine = await open_engine(f"{server.url}?max_events=1&max_age_s=1")
    await engine.state.put("a", b"1")
    await engine.state.put("b", b"1")
    client = await nats.connect(server.url)
    for name in ("state", "instances"):
        config = (await client.jetstream().stream_info(f"KV_protoplane-{name}")).config
        assert (config.max_age or 0, config.max_msgs, config.num_replicas) == (0, -1, 1)
    await client.close()
    await engine.close()


async def test_a_domain(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("jetstream: {domain: hub}\n")
    with nats_server(
        tmp_path, jetstream=tmp_path / "js", arguments=("--config", str(tmp_path / "conf"))
    ) as server:
        engine = await open_engine(f"{server.url}?domain=hub")
        revision = await engine.state.put("a", b"1", expected=0)
        async with engine.discovery.register(ONE):
            assert list(await engine.discovery.instances()) == [ONE]
        assert [entry.revision for entry in await engine.state.list()] == [revision]
        await engine.close()


async def test_what_the_docs_permit_is_enough(tmp_path: Path) -> None:
    subjects = (
        '["protoplane.>", "$KV.protoplane-state.>", "$KV.protoplane-instances.>", "$JS.API.>", '
        '"_INBOX.>"]'
    )
    (tmp_path / "conf").write_text(
        "authorization: {users: [{user: me, password: secret, permissions: "
        f"{{publish: {subjects}, subscribe: {subjects}}}}}]}}\n"
    )
    arguments = ("--config", str(tmp_path / "conf"))
    with nats_server(tmp_path, jetstream=tmp_path / "js", arguments=arguments) as server:
        url = server.url.replace("//", "//me:secret@")
        one, other = await open_engine(url), await open_engine(url)
        async with aclosing(other.discovery.watch()) as changes, one.discovery.register(ONE):
            await Watch(changes).names(ONE.name)
            # It answers when it is asked.
            assert list(await other.discovery.instances()) == [ONE]
        await one.state.put("a", b"1", ttl_s=9)
        assert [entry.key for entry in await other.state.list()] == ["a"]
        reader = other.events.read(["**"], after=Start.EARLIEST)
        await publish(one.events, "a", durable=True)
        await take(reader, 1)
        await publish(one.events, "a")
        await take(reader, 1)
        await one.close()
        await other.close()


def test_without_the_library() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "MissingExtraError" in last
    assert "pip install 'protoplane[nats]'" in last


async def test_one_of_three_is_killed(tmp_path: Path) -> None:
    with NatsServers(tmp_path) as servers:
        cluster = servers.cluster()
        one = await open_engine(cluster_url(cluster))
        other = await open_engine(cluster_url(cluster))
        try:
            await loses_one(cluster, one, other)
        finally:
            await one.close()
            await other.close()


async def loses_one(cluster: list[NatsServer], one: Engine, other: Engine) -> None:
    acknowledged: dict[str, dict[int, int]] = {}
    stop = asyncio.Event()

    async def count(key: str) -> None:
        """Count up by compare-and-set; what is acknowledged is never undone."""
        known = acknowledged[key] = {}
        while not stop.is_set():
            try:
                entry = await one.state.get(key)
                number = int(entry.value) + 1 if entry is not None else 0
                expected = entry.revision if entry is not None else 0
                known[number] = await one.state.put(key, str(number).encode(), expected=expected)
            except PlaneError as error:
                if error.code not in (Code.UNAVAILABLE, Code.ABORTED):
                    raise
                await asyncio.sleep(0.05)

    async def seen() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        last = 0
        async with aclosing(other.state.watch()) as watch:
            async for change in watch:
                if isinstance(change, Snapshot):
                    continue
                assert change.revision > last
                last = change.revision
                if change.key == "end":
                    break
                assert isinstance(change, Entry)
                found.setdefault(change.key, []).append(int(change.value))
        return found

    seeing = asyncio.create_task(seen())
    counting = [asyncio.create_task(count(f"a/{number}")) for number in range(4)]
    async with aclosing(other.discovery.watch()) as changes, one.discovery.register(ONE):
        watch = Watch(changes)
        await watch.names(ONE.name)
        random.choice(cluster).kill()
        begun = time.monotonic()
        joined = False
        while not joined:
            assert time.monotonic() - begun < 60
            try:
                async with one.discovery.register(TWO):
                    joined = True
                    await watch.names(ONE.name, TWO.name)
                    there = {each.name for each in await other.discovery.instances()}
                    assert there == {ONE.name, TWO.name}
            except PlaneError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
        await watch.names(ONE.name)
    before = {key: max(known, default=-1) for key, known in acknowledged.items()}
    async with asyncio.timeout(60):
        while any(  # noqa: ASYNC110
            max(acknowledged[key], default=-1) <= number for key, number in before.items()
        ):
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*counting)
        while True:
            try:
                await one.state.put("end", b"")
                break
            except PlaneError:
                await asyncio.sleep(0.05)
        told = await seeing
    for key, known in acknowledged.items():
        entry = await other.state.get(key)
        assert entry is not None
        assert int(entry.value) >= max(known)
        assert entry.revision >= max(known.values())
        assert list(known.values()) == sorted(known.values())
        assert told[key] == sorted(set(told[key]))
        assert told[key][-1] == int(entry.value)
    print(f"{sum(map(len, acknowledged.values()))} changes acknowledged, none lost")
