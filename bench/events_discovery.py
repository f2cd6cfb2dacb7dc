"""How soon a process sees that another is there, and that it was killed.

From just before the other registers, or is sent SIGKILL, to when the watcher is told, by the clock
that all processes share. Every round has a new process. A bound is on the slowest round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from statistics import median
from time import monotonic_ns

from events_processes import Desk, Role, Worker, WorkerError
from report import Claim, Row

_COMPONENT = "forge/captioner"
_BOUND_MS = 100


# Roles.


async def watch(desk: Desk, *, url: str) -> None:
    """Tell of each change when it was seen."""
    from protoplane_runtime.engines.opening import open_discovery

    discovery = await open_discovery(url)

    async def tell() -> None:
        async with aclosing(discovery.watch(_COMPONENT)) as batches:
            await anext(batches)
            desk.tell(ready=True)
            async for batch in batches:
                now = monotonic_ns()
                for change in batch:
                    desk.tell(change=type(change).__name__, name=change.instance.name, seen_ns=now)

    async with asyncio.TaskGroup() as group:
        group.create_task(tell())
        await desk.order()
        await discovery.close()


async def join(desk: Desk, *, url: str) -> None:
    """Register when asked to, and stay."""
    from protoplane_runtime.engines.discovery import Instance, instance_name
    from protoplane_runtime.engines.opening import open_discovery

    discovery = await open_discovery(url)
    try:
        desk.tell(ready=True)
        await desk.order()
        instance = Instance(
            instance_name(_COMPONENT),
            endpoints=("link+unix:/run/captioner", "grpc://localhost:50051"),
            services=("forge.captioner.v1.CaptionerService",),
            metadata={"model": "captioner-small"},
        )
        began = monotonic_ns()
        async with discovery.register(instance):
            desk.tell(began_ns=began, name=instance.name)
            await desk.order()
    finally:
        await discovery.close()


ROLES: dict[str, Role] = {"watcher": watch, "member": join}


# What is measured.


def sightings(
    urls: Mapping[str, str], *, full: bool, absent: dict[str, str]
) -> tuple[list[Row], list[Claim]]:
    """Each engine's; why one could not be measured goes into ``absent``.

    Args:
        urls: The engines, by the names of their rows.
        full: Whether to take the time for more rounds.
        absent: What could not be measured, and why.
    """
    rows: list[Row] = []
    claims: list[Claim] = []
    for name, url in urls.items():
        joined: list[float] = []
        left: list[float] = []
        if name not in absent:
            try:
                _follow(url, 50 if full else 10, joined, left)
            except WorkerError as error:
                absent[name] = str(error)
                # Some rounds do not speak for all.
                joined, left = [], []
        for what, spent in (("join", joined), ("SIGKILL", left)):
            slowest = max(spent, default=float("nan"))
            said = f"{name} {what} seen by another process, slowest, ms"
            claims.append(Claim(said, _BOUND_MS, slowest, at_most=True))
            if spent:
                rows.append(Row(name, f"{what} seen, median", median(spent), "ms"))
                rows.append(Row(name, f"{what} seen, slowest", slowest, "ms"))
    return rows, claims


def _follow(url: str, rounds: int, joined: list[float], left: list[float]) -> None:
    with Worker("watcher", url=url) as watcher:
        watcher.answer()
        for _ in range(rounds):
            with Worker("member", url=url) as member:
                member.answer()
                began = member.ask("join")
                joined.append(_seen_after(watcher, "Joined", began["name"], began["began_ns"]))
                killed = monotonic_ns()
                member.kill()
                left.append(_seen_after(watcher, "Left", began["name"], killed))


def _seen_after(watcher: Worker, change: str, name: str, since_ns: int) -> float:
    """Milliseconds until the watcher was told of a change."""
    while True:
        seen = watcher.answer()
        if (seen["change"], seen["name"]) == (change, name):
            seen_ns: int = seen["seen_ns"]
            return (seen_ns - since_ns) / 1e6
