"""How soon a process sees that another is there, and that it was killed.

From just before the other registers, or is sent SIGKILL, to when the watcher is told, by the clock
that all processes share. Every round has a new process. A bound is on the slowest round. In a
cluster of three NATS servers, processes take each other for those of other machines, so that the
kernel tells them nothing.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import Mapping
from contextlib import ExitStack, aclosing
from pathlib import Path
from statistics import median
from time import monotonic_ns

from events_processes import Desk, Role, Worker, WorkerError
from report import Claim, Row

_COMPONENT = "forge/captioner"
_BOUND_MS = 100
_CLUSTER_BOUND_MS = 2_000


# Roles.


async def watch(desk: Desk, *, url: str, elsewhere: bool = False) -> None:
    """Tell of each change when it was seen, by those who may be on another machine."""
    from protoplane_runtime.engines.opening import open_discovery

    if elsewhere:
        from protoplane_runtime.engines.nats import claim

        setattr(claim, "here", lambda: "elsewhere")  # noqa: B010  # stands for another machine
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


async def serve_cluster(desk: Desk, *, folder: str) -> None:
    """Serve three NATS servers until there are no more orders, and tell their engine's URL."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    command = Path(sys.executable).with_name("nats-server")
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports[3:])
    servers: list[asyncio.subprocess.Process] = []
    try:
        for number, (port, route) in enumerate(zip(ports[:3], ports[3:], strict=True)):
            place = ("--addr", "127.0.0.1", "--port", str(port), "--server_name", f"s{number}")
            store = ("--jetstream", "--store_dir", f"{folder}/s{number}")
            mesh = ("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{route}")
            servers.append(
                await asyncio.create_subprocess_exec(
                    command, *place, *store, *mesh, "--routes", routes, stderr=DEVNULL
                )
            )
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports[:3])
        desk.tell(url=f"nats://{hosts}?replicas=3")
        while await desk.order() is not None:
            pass
    finally:
        for server in servers:
            server.kill()
            await server.wait()


ROLES: dict[str, Role] = {"watcher": watch, "member": join, "NATS cluster": serve_cluster}


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
        _sight(name, url, (_BOUND_MS, _BOUND_MS), rows, claims, full=full, absent=absent)
    return rows, claims


def cluster_sightings(
    folder: str, *, full: bool, absent: dict[str, str]
) -> tuple[list[Row], list[Claim]]:
    """Those of a cluster of three NATS servers.

    Args:
        folder: For the servers' files.
        full: Whether to take the time for more rounds.
        absent: What could not be measured, and why.
    """
    rows: list[Row] = []
    claims: list[Claim] = []
    name = "nats: of three servers"
    bounds = (_BOUND_MS, _CLUSTER_BOUND_MS)
    with Worker("NATS cluster", folder=folder) as cluster:
        url = cluster.answer()["url"]
        _sight(name, url, bounds, rows, claims, full=full, absent=absent, elsewhere=True)
    return rows, claims


def _sight(
    name: str,
    url: str,
    bounds: tuple[int, int],
    rows: list[Row],
    claims: list[Claim],
    *,
    full: bool,
    absent: dict[str, str],
    elsewhere: bool = False,
) -> None:
    joined: list[float] = []
    left: list[float] = []
    if name not in absent:
        try:
            _follow(url, 50 if full else 10, joined, left, elsewhere=elsewhere)
        except WorkerError as error:
            absent[name] = str(error)
            # Some rounds do not speak for all.
            joined, left = [], []
    for what, spent, bound in zip(("join", "SIGKILL"), (joined, left), bounds, strict=True):
        slowest = max(spent, default=float("nan"))
        said = f"{name} {what} seen by another process, slowest, ms"
        claims.append(Claim(said, bound, slowest, at_most=True))
        if spent:
            rows.append(Row(name, f"{what} seen, median", median(spent), "ms"))
            rows.append(Row(name, f"{what} seen, slowest", slowest, "ms"))


def _follow(
    url: str, rounds: int, joined: list[float], left: list[float], *, elsewhere: bool
) -> None:
    with Worker("watcher", url=url, elsewhere=elsewhere) as watcher:
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
