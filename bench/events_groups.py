"""Consumer groups: events that one member takes and acknowledges, a second.

The events are there before the clock starts, under a thousand keys, each of them in order. The
member acknowledges each batch that it is given, and that is stored before it takes the next. As a
peer, nats-py pulls the same events from a JetStream consumer and acknowledges each, which nobody
waits for.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import aclosing
from itertools import count
from statistics import median
from time import perf_counter

from events_processes import Desk, Role, Worker, WorkerError
from events_sample import EXPRESSION, KEY, TYPE, event
from report import Claim, Row
from request_plane_side import untyped

_KEYS = 1_000
_BATCH = 256
_TOGETHER = 1_000
_PEER = "JetStream pull consumer, nats-py"
_NUMBERS = count(1)


# Roles.


async def take_part(desk: Desk, *, url: str, group: str, events: int) -> None:
    """Publish so many events, take them as the only member of a group, and tell how fast."""
    from protoplane_runtime.engines.groups import Delivery, GroupSettings
    from protoplane_runtime.engines.opening import open_engine

    engine = await open_engine(url)
    try:
        made = event(0)
        data, text = made.to_bytes(), made.model_dump_json()
        before = await engine.events.publish(KEY, TYPE, data, text, durable=True)
        for first in range(0, events, _TOGETHER):
            await asyncio.gather(
                *(
                    engine.events.publish(f"{KEY}/{n % _KEYS}", TYPE, data, text, durable=True)
                    for n in range(first, first + _TOGETHER)
                )
            )
        settings = GroupSettings(start=before, max_in_flight=2 * _BATCH)
        taken = 0
        started = perf_counter()
        async with aclosing(engine.groups.consume(group, [EXPRESSION], settings)) as batches:
            async for batch in batches:
                tokens = [each.token for each in batch if isinstance(each, Delivery)]
                await engine.groups.acknowledge(tokens)
                taken += len(tokens)
                if taken >= events:
                    break
            desk.tell(rate=taken / (perf_counter() - started))
        await desk.order()
    finally:
        await engine.close()


async def pull(desk: Desk, *, url: str, group: str, events: int) -> None:
    """As `take_part`, with nats-py alone."""
    connection = await untyped("nats").connect(url)
    try:
        stream = connection.jetstream()
        subject = f"bench.groups.{group}"
        await stream.add_stream(name=group, subjects=[f"{subject}.*"])
        data = event(0).model_dump_json().encode()
        for first in range(0, events, _TOGETHER):
            futures = [
                await stream.publish_async(f"{subject}.{n % _KEYS}", data)
                for n in range(first, first + _TOGETHER)
            ]
            await asyncio.gather(*futures)
        pulled = await stream.pull_subscribe(f"{subject}.*", durable=group)
        taken = 0
        started = perf_counter()
        while taken < events:
            messages = await pulled.fetch(_BATCH, timeout=30)
            for message in messages:
                await message.ack()
            taken += len(messages)
        await connection.flush()
        desk.tell(rate=taken / (perf_counter() - started))
        await desk.order()
    finally:
        await connection.close()


ROLES: dict[str, Role] = {"group member": take_part, "JetStream member": pull}


# What is measured.


def acknowledgements(
    urls: Mapping[str, str], nats: str, *, full: bool, absent: dict[str, str]
) -> tuple[list[Row], list[Claim]]:
    """Each engine's, and the peer's; why one could not be measured goes into ``absent``.

    Args:
        urls: The engines, by the names of their rows.
        nats: URL of a NATS server with JetStream.
        full: Whether to take the time for more events and more rounds.
        absent: What could not be measured, and why.
    """
    rounds, events = (3, 30_000) if full else (2, 10_000)
    courses = [
        *((name, "group member", url) for name, url in urls.items()),
        (_PEER, "JetStream member", nats),
    ]
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, role, url in courses:
            if name in absent:
                continue
            try:
                group = f"bench-{next(_NUMBERS)}"
                with Worker(role, url=url, group=group, events=events) as member:
                    rates[name].append(member.answer()["rate"])
            except WorkerError as error:
                absent[name] = str(error)
    return [
        Row(name, "consumer group, one member", median(measured), "acks/s")
        for name, measured in rates.items()
    ], []
