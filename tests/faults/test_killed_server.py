"""Ten thousand calls, two servers, and SIGKILL for one of them in the middle: none is lost."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.faults.ledger import ENTER, entered
from tests.nats_server import nats_server, needs_nats_server

from forge.captioner.v1 import CollectRequest
from protoplane_client import ConnectionState, Plane, connect

pytestmark = pytest.mark.anyio

RecordProperty = Callable[[str, object], None]

ROOT = Path(__file__).parents[2]
CALLS = 10_000
CARRIERS = "protoplane_runtime.link.carriers"


@dataclass
class Instance:
    """A place where a server runs, or several one after the other.

    Attributes:
        folder: Where each of them keeps its ledger.
        door: Door that listens.
        where: What it is told to listen at; once it runs, where that is.
        prefix: What makes a target of that.
        files: The ledger of each server that ran here, in order.
    """

    folder: Path
    door: str
    where: str
    prefix: str = ""
    files: list[Path] = field(default_factory=list[Path])
    process: Process | None = None

    @property
    def target(self) -> str:
        """What a client connects to."""
        return self.prefix + self.where

    async def start(self) -> None:
        """Start a server, at the same place as the one before."""
        file = self.folder / f"ledger-{len(self.files)}"
        self.files.append(file)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.ledger", str(file), self.door, self.where,
            stdout=PIPE, cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            self.where = (await self.process.stdout.readline()).decode().strip()
        assert self.where

    async def kill(self) -> None:
        """End it as a crash does."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        # Its pipe is read to the end, or it would be left to the collector.
        await self.process.communicate()

    def ran(self, generation: int) -> Counter[str]:
        """How often each key ran on one of the servers."""
        file = self.files[generation]
        return Counter(file.read_text().split()) if file.exists() else Counter()


@asynccontextmanager
async def running(instances: list[Instance]) -> AsyncGenerator[Plane]:
    for instance in instances:
        await instance.start()
    try:
        async with connect([instance.target for instance in instances]) as plane:
            yield plane
    finally:
        for instance in instances:
            await instance.kill()


@pytest.fixture(
    params=["tcp", "unix", "grpc", "zmq", pytest.param("nats", marks=needs_nats_server)]
)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Instance]]:
    """Two places for servers on one carrier."""
    module = {"zmq": "zeromq", "grpc": "grpc_stream"}.get(request.param, request.param)
    if find_spec(f"{CARRIERS}.{module}") is None:
        pytest.skip(f"there is no carrier {request.param} yet")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    match request.param:
        case "tcp" | "zmq" as carrier:
            yield [Instance(folder, "link", f"link+{carrier}://127.0.0.1:0") for folder in folders]
        case "unix":
            yield [Instance(folder, "link", f"link+unix:{folder / 'l.sock'}") for folder in folders]
        case "grpc":
            yield [Instance(folder, "grpc", "127.0.0.1:0", "link+grpc://") for folder in folders]
        case _:
            broker = tmp_path / "broker"
            broker.mkdir()
            with nats_server(broker) as nats:
                url = f"link+{nats.url}"
                yield [Instance(folder, "link", f"{url}/{folder.name}") for folder in folders]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "again"])
async def test_no_call_is_lost(
    pair: list[Instance], again: bool, record_property: RecordProperty
) -> None:
    await lose_one(pair, 256, CALLS // 2, record_property, again=again)


@pytest.mark.parametrize("pair", ["tcp"], indirect=True)
async def test_no_call_is_lost_under_a_new_client_with_many_at_once(
    pair: list[Instance], record_property: RecordProperty
) -> None:
    await lose_one(pair, 1500, 100, record_property, again=False)


async def lose_one(
    pair: list[Instance],
    at_once: int,
    killed_after: int,
    record_property: RecordProperty,
    *,
    again: bool,
) -> None:
    """Make all calls, kill one server after so many of them, and see what became of them."""
    one, two = pair
    numbers = iter(range(CALLS))
    done = 0
    reached = {count: asyncio.Event() for count in (killed_after, killed_after + CALLS // 10)}
    async with running(pair) as plane:

        async def caller() -> None:
            nonlocal done
            for number in numbers:
                text = f"entry {number}"
                answer = await plane.unary(
                    ENTER, CollectRequest(text=text), {"idempotency_key": f"key-{number}"}
                )
                assert answer == entered(text)
                done += 1
                if done in reached:
                    reached[done].set()

        async def crash() -> None:
            before, after = reached.values()
            await before.wait()
            await one.kill()
            if again:
                await after.wait()
                await one.start()

        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(crash())
            for _ in range(at_once):
                group.create_task(caller())
        if again:
            async with asyncio.timeout(60):
                while plane.routes[0].state is not ConnectionState.CONNECTED:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        route = plane.routes[0]
        assert route.stats.errors >= 1
        assert route.stats.reconnects == again
        assert sum(route.outstanding for route in plane.routes) == 0

    assert done == CALLS
    died, *lived = one.ran(0), two.ran(0), *(one.ran(n) for n in range(1, len(one.files)))
    for ledger in lived:
        assert [key for key, times in ledger.items() if times > 1] == []
    assert max(died.values()) == 1
    on_living = lived[0] + sum(lived[1:], Counter[str]())
    assert max(on_living.values()) == 1
    everything = died + on_living
    assert len(everything) == CALLS
    assert len(died) >= 1
    repeated = sum(times - 1 for times in everything.values())
    assert repeated <= at_once
    told = {
        "calls ran once on the server that died": len(died),
        "calls ran again elsewhere, because it died before it answered": repeated,
    }
    for what, count in told.items():
        record_property(what, count)
        print(f"{count} {what}")
