"""A process that is a node of a Zenoh network; the tests start and kill it.

python -m tests.runtime.zenoh_worker publish <url> <key> <count> <durable: 0 or 1>
python -m tests.runtime.zenoh_worker read <url> <count>
python -m tests.runtime.zenoh_worker live <url> <name>...
python -m tests.runtime.zenoh_worker count <url> <times>
python -m tests.runtime.zenoh_worker put <url> <key>
python -m tests.runtime.zenoh_worker leave <url>
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AsyncExitStack

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.interface import Event
from protoplane_runtime.engines.opening import open_discovery, open_engine


def say(text: object) -> None:
    """Say something to the test."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def publish(url: str, key: str, count: int, durable: bool) -> None:
    """Say `ready`; when told to, publish in order, and say each number once it is acknowledged.

    It stays, so that others can ask it for what they missed.
    """
    engine = await open_engine(url)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for at in range(0, count, 100):
        numbers = range(at, min(at + 100, count))
        await asyncio.gather(
            *(
                engine.events.publish(
                    key, "test.v1.Text", b"x" * 100, f'"{number}"', durable=durable
                )
                for number in numbers
            )
        )
        say(numbers[-1] + 1)
    say("done")
    await asyncio.to_thread(sys.stdin.readline)
    await engine.close()


async def read(url: str, count: int) -> None:
    """Say `ready`, then how many events came once these are all."""
    engine = await open_engine(url)
    reader = engine.events.read(["**"])
    say("ready")
    got = 0
    async for batch in reader:
        got += sum(isinstance(event, Event) for event in batch)
        if got >= count:
            break
    say(got)
    await engine.close()


async def live(url: str, names: list[str]) -> None:
    """Register instances, say since when, and stay."""
    discovery = await open_discovery(url)
    async with AsyncExitStack() as stack:
        begun = time.time()
        for name in names:
            await stack.enter_async_context(discovery.register(Instance(name)))
        say(begun)
        await asyncio.to_thread(sys.stdin.readline)
    await discovery.close()


async def count(url: str, times: int) -> None:
    """Say `ready`; when told to, count up in competition with others."""
    engine = await open_engine(url)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    while times:
        entry = await engine.state.get("count")
        value, revision = (int(entry.value), entry.revision) if entry is not None else (0, 0)
        try:
            await engine.state.put("count", str(value + 1).encode(), expected=revision)
        except PlaneError as error:
            if error.code is not Code.ABORTED:
                raise
        else:
            times -= 1
    await engine.close()
    say("done")


async def put(url: str, key: str) -> None:
    """Say `ready`; when told to, put numbers one after another, and say each that is there."""
    engine = await open_engine(url)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    for number in range(10**6):
        await engine.state.put(key, str(number).encode())
        say(number)


async def leave(url: str) -> None:
    """Say `ready`, and end without closing anything."""
    opened.append(await open_engine(url))
    say("ready")


opened: list[Engine] = []


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish", url, key, number, durable]:
            asyncio.run(publish(url, key, int(number), durable == "1"))
        case ["read", url, number]:
            asyncio.run(read(url, int(number)))
        case ["live", url, *names]:
            asyncio.run(live(url, names))
        case ["count", url, times]:
            asyncio.run(count(url, int(times)))
        case ["put", url, key]:
            asyncio.run(put(url, key))
        case ["leave", url]:
            asyncio.run(leave(url))
        case _:
            sys.exit(__doc__)
