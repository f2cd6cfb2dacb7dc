"""``protoplane demo``."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator

import click
from rich.console import Console

from protoplane_client import connect
from protoplane_components.captioner import Captioner
from protoplane_components.commands.acts import Stage, by_grpc, by_json, by_sse
from protoplane_components.commands.ports import free_port
from protoplane_runtime import terminal
from protoplane_runtime.engines.opening import named
from protoplane_server import Options, Server

_EXAMPLE = """
\b
Examples:
  protoplane demo
  protoplane demo --once --grpc 50052 --http 8081
"""
_HOST = "127.0.0.1"


@click.command(epilog=_EXAMPLE)
@click.option("--once", is_flag=True, help="Exit when everything has been shown.")
@click.option("--grpc", type=click.IntRange(0, 65535), default=50051, show_default=True)
@click.option("--http", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--prompt", default="An old man told the children that", show_default=True)
def demo(*, once: bool, grpc: int, http: int, prompt: str) -> None:
    """Serve a small captioner here, call it in three ways, and leave it up to be tried.

    It needs no GPU, no other server and no download. A port that is taken is said, and another is
    used.
    """
    terminal.run(_demo(once=once, grpc=grpc, http=http, prompt=prompt))


async def _demo(*, once: bool, grpc: int, http: int, prompt: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    console = Console(highlight=False)
    stage = Stage(console)
    stage.title()
    grpc_port = _port("gRPC", grpc, stage)
    http_port = _port("HTTP", http, stage, beside=grpc_port)
    options = Options(
        grpc=f"{_HOST}:{grpc_port}",
        http=f"{_HOST}:{http_port}",
        link=(f"link+tcp://{_HOST}:0",),
        pick_free_port=True,
        grace_s=1.0,
        engine=named(),
    )
    async with Server(Captioner(), options) as server:
        grpc_address, http_url = str(server.grpc_address), str(server.http_url)
        [link] = server.link_addresses
        stage.served(Captioner.spec.component, grpc_address, http_url, link)
        acting = asyncio.create_task(_show(stage, grpc_address, http_url, prompt))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((acting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            await acting
            stage.invitation(grpc_address, http_url, stays=not once)
            if not once:
                async with _events(stage, http_url):
                    await stopped
        for task in (acting, stopped):
            task.cancel()
        await asyncio.wait((acting, stopped))
    if not once:
        stage.goodbye()


async def _show(stage: Stage, grpc_address: str, http_url: str, prompt: str) -> None:
    async with connect(f"grpc://{grpc_address}") as plane, _events(stage, http_url):
        await by_grpc(stage, plane, prompt)
        await by_json(stage, http_url, prompt)
        await by_sse(stage, http_url, prompt)


@contextlib.asynccontextmanager
async def _events(stage: Stage, http_url: str) -> AsyncGenerator[None]:
    async def follow() -> None:
        async with connect(http_url) as plane:
            async for event in plane.subscribe("forge/captions/*"):
                stage.event(event)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _port(door: str, wanted: int, stage: Stage, *, beside: int = 0) -> int:
    port = free_port(_HOST, wanted, beside=beside)
    if wanted and port != wanted:
        stage.taken(door, wanted, port)
    return port
