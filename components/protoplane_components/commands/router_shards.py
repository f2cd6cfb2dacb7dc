"""``protoplane router shards``."""

from __future__ import annotations

import asyncio
import logging
import signal

import click

from protoplane_components.kv_router.settings import MAX_SHARDS, SHARDS
from protoplane_components.kv_router.shard_process import LINK, ShardPlace, ShardProcesses
from protoplane_runtime import terminal
from protoplane_runtime.engines.discovery import DEFAULT_NAMESPACE
from protoplane_runtime.engines.opening import DEFAULT_URL, VARIABLE

_EXAMPLE = f"""
\b
Examples:
  protoplane router shards 4
  {SHARDS}=4 protoplane serve protoplane_components.kv_router --http-only
  protoplane router shards 4 --only 2 --engine nats://10.0.0.1 --link link+tcp://0.0.0.0:0
"""


@click.command("shards", epilog=_EXAMPLE)
@click.argument("count", type=click.IntRange(1, MAX_SHARDS))
@click.option(
    "--only",
    type=click.IntRange(min=1),
    multiple=True,
    help="Number of a shard to serve here, from 1; again for more. Others serve the rest.  "
    "[default: all]",
)
@click.option(
    "--engine",
    envvar=VARIABLE,
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="The engine of the routers and the workers.",
)
@click.option(
    "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Where routers find them."
)
@click.option(
    "--link",
    default=LINK,
    show_default=True,
    metavar="ADDRESS",
    help="Where each takes links, with port 0.",
)
def shards_command(
    *, count: int, only: tuple[int, ...], engine: str, namespace: str, link: str
) -> None:
    """Serve the index of a router in COUNT parts, a process for each, until Ctrl-C or SIGTERM.

    A process that dies is started again. Routers use the parts where PROTOPLANE_ROUTER_SHARDS says
    how many there are.
    """
    if any(number > count for number in only):
        raise click.UsageError(f"--only names a shard beyond {count}, the last one")
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with terminal.errors():
        place = ShardPlace(engine=engine, namespace=namespace, link=link)
        numbers = sorted(set(only)) or range(1, count + 1)
        asyncio.run(_run(ShardProcesses(numbers, count, place)))


async def _run(processes: ShardProcesses) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with processes:
        await over.wait()
