"""A process of the soak test, which starts and kills it: publishers, or members of groups.

python -m tests.faults.soak_worker publish|consume <what it is given, as JSON>

It runs until its standard input ends, or it is killed. What it wrote to its journal before that
says what was acknowledged to it, or delivered to it. It keeps on where its engine is away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from time import monotonic_ns

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import Publication, Start
from protoplane_runtime.engines.opening import open_engine

EXPRESSION = "forge/**"
TYPE = "tests.faults.v1.Soaked"

_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Given:
    """What a process is given.

    Attributes:
        engine: URL of the engine.
        journal: Its journal, a new file.
        generation: How many came before it in its place.
        publishers: Numbers of its publishers.
        every_s: Seconds between two events of one publisher, on average.
        groups: Names of the groups that it is a member of.
        visibility_s: Seconds for which an event is with it.
    """

    engine: str
    journal: str
    generation: int
    publishers: Sequence[int] = ()
    every_s: float = 1.0
    groups: Sequence[str] = ()
    visibility_s: float = 30.0

    def to_json(self) -> str:
        """It as JSON."""
        return json.dumps(asdict(self))


class Journal:
    """Appends lines to a file. They survive the process, as the machine is not what is killed."""

    def __init__(self, file: str) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, lines: str) -> None:
        """Append lines, each with its end."""
        os.write(self._file, lines.encode())


async def publish(given: Given, engine: Engine, journal: Journal, stop: asyncio.Event) -> None:
    """Publish as all its publishers: each one event after the other, under a key of its own."""

    async def publisher(name: int) -> None:
        number = 0
        while not await _pause(stop, random.expovariate(1 / given.every_s)):
            number += 1
            what = f"{name} {given.generation} {number}"
            publication = Publication(f"soak-{name}-{given.generation}", number)
            # The next one may only come after it, so it is published for as long as that takes.
            while not await _done(
                engine.events.publish(
                    f"forge/soak/{name}", TYPE, what.encode(), json.dumps(what),
                    durable=True, publication=publication,
                )
            ):  # fmt: skip
                if await _pause(stop, _RETRY_S):
                    return
            journal.write(f"{what}\n")

    async with asyncio.TaskGroup() as tasks:
        for name in given.publishers:
            tasks.create_task(publisher(name))
    await stop.wait()


async def consume(given: Given, engine: Engine, journal: Journal, stop: asyncio.Event) -> None:
    """Take part in its groups: write each delivery down, then acknowledge it."""
    settings = GroupSettings(given.visibility_s, max_deliveries=1_000, start=Start.EARLIEST)

    async def member(group: str) -> None:
        async with aclosing(engine.groups.consume(group, [EXPRESSION], settings)) as batches:
            async for batch in batches:
                now = monotonic_ns()
                lines: list[str] = []
                tokens: list[str] = []
                for place, each in enumerate(batch):
                    # Those of one batch are in order as well.
                    when = now + place
                    if isinstance(each, Delivery):
                        lines.append(f"{when} {group} {each.event.data.decode()}\n")
                        tokens.append(each.token)
                    else:
                        lines.append(f"{when} {group} gap\n")
                journal.write("".join(lines))
                while not await _done(engine.groups.acknowledge(tokens)):
                    await _pause(stop, _RETRY_S)

    async with asyncio.TaskGroup() as group:
        members = [group.create_task(member(each)) for each in given.groups]
        await stop.wait()
        for each in members:
            each.cancel()


async def _done(action: Awaitable[object]) -> bool:
    """Whether it is done; ``False`` where the engine is away."""
    try:
        await action
    except PlaneError as error:
        if error.code is Code.UNAVAILABLE:
            return False
        # Another member has it by now.
        if error.code is not Code.FAILED_PRECONDITION:
            raise
    return True


async def _pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait so long, or until the end; whether it is the end."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def _opened(url: str, stop: asyncio.Event) -> Engine | None:
    while True:
        try:
            return await open_engine(url)
        except PlaneError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
        if await _pause(stop, _RETRY_S):
            return None


async def main(role: str, given: Given) -> None:
    """Play a role until the standard input ends."""
    logging.basicConfig(level=logging.ERROR)
    orders, stop = asyncio.StreamReader(), asyncio.Event()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )

    async def wait_for_end() -> None:
        await orders.read()
        stop.set()

    ending = asyncio.create_task(wait_for_end())
    engine = await _opened(given.engine, stop)
    if engine is not None:
        try:
            act = publish if role == "publish" else consume
            await act(given, engine, Journal(given.journal), stop)
        finally:
            await engine.close()
    await ending


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Given(**json.loads(sys.argv[2]))))
