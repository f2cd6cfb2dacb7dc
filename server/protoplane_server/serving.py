"""`serve`: a component as a program, from its start until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Unpack

from protoplane_base import MissingExtraError, PlaneError
from protoplane_runtime.engines.opening import VARIABLE
from protoplane_server.component import Component, NoComponentError
from protoplane_server.lifecycle import Server
from protoplane_server.options import OptionFields, Options
from protoplane_server.supervisor import supervise

_log = logging.getLogger("protoplane.server")

OnReady = Callable[[Server], None]
ReadLinks = Callable[[], Sequence[str]]


def serve(
    *components: Component,
    workers: int = 1,
    on_ready: OnReady | None = None,
    links: ReadLinks | None = None,
    lifeline: int | None = None,
    **options: Unpack[OptionFields],
) -> None:
    """Serve components until SIGTERM or SIGINT, drain, and return.

    A second signal cuts the drain short. What keeps the server from starting, a port that is taken
    for example, is one line on the standard error and exit code 1.

    Args:
        *components: Services, or classes of services; with several workers a class is instantiated
            in each of them, and an instance is what it was when they were forked.
        workers: How many processes share the ports.
        on_ready: Called once the doors are open, in each process, and when SIGHUP has changed
            where links are taken; by default it says on the standard error where they are.
        links: Asked at SIGHUP for the addresses where links are taken from then on. Who is
            connected goes on at the new ones; where one of them does not do, nothing changes and
            the log says why. For a single process; without it SIGHUP ends the process.
        lifeline: File descriptor, such as the reading end of a pipe that a parent process holds the
            other end of. At its end the server drains and stops, so nobody outlives who started
            it; and SIGINT is left to the parent. For a single process.
        **options: See `Options`. Without ``engine``, it is that of ``$PROTOPLANE_ENGINE``,
            where that is set.

    Raises:
        ValueError: There are several workers, and ``links`` or ``lifeline``.
        SystemExit: With code 1 when the server could not start.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        # A line for each call, in or out, is no news.
        for library in ("uvicorn", "httpx", "httpx2"):
            logging.getLogger(library).setLevel(logging.WARNING)
    if links is not None and workers > 1:
        raise ValueError("links can change in one process only, not in several workers")
    if lifeline is not None and workers > 1:
        raise ValueError("a lifeline is for one process; several workers have one of their own")
    ready = on_ready or announce
    options.setdefault("engine", os.environ.get(VARIABLE) or None)
    try:
        chosen = Options(**options)
        if workers > 1:
            code = _supervised(components, chosen, ready, workers)
            if code:
                raise SystemExit(code)
        else:
            run(_serve(components, chosen, ready, lifeline, links))
    except StartError as error:
        print(f"protoplane: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def spare_collector() -> None:
    """Keep the collector of cycles from walking what lives long, for the rest of the process.

    What was imported and made so far lives as long as the process, and of what comes later most is
    kept, as events are, or gone without its help. By default it looks at each of these several
    times, which costs some microseconds a call and a quarter of what it takes to publish.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class StartError(Exception):
    """The server could not start; the message is for a person."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine as ``asyncio.run`` does, on uvloop where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(main)
    else:
        uvloop.run(main)


def announce(server: Server) -> None:
    """Say on the standard error where the doors are."""
    names = ", ".join(server.services)
    doors = [
        f"{kind} at {where}"
        for kind, where in (("gRPC", server.grpc_address), ("HTTP", server.http_url))
        if where
    ]
    doors += [f"links at {where}" for where in server.link_addresses]
    # One write, so that the lines of several workers do not run into each other.
    sys.stderr.write(f"{names}: {' and '.join(doors)}\n")
    sys.stderr.flush()


def _supervised(
    components: Sequence[Component], options: Options, on_ready: OnReady, workers: int
) -> int:
    def work(shared: Options, parent: int) -> None:
        try:
            run(_serve(components, shared, on_ready, parent, None))
        except StartError as error:
            print(f"protoplane: {error}", file=sys.stderr)
            raise SystemExit(1) from error

    try:
        return supervise(work, options, workers)
    except (OSError, ValueError, PlaneError) as error:
        raise _start_error(error) from error


def _start_error(error: Exception) -> StartError:
    if isinstance(error, PlaneError):
        return StartError(error.message)
    return StartError(str((isinstance(error, OSError) and error.strerror) or error))


async def _serve(
    components: Sequence[Component],
    options: Options,
    on_ready: OnReady,
    parent: int | None,
    links: ReadLinks | None,
) -> None:
    stop = asyncio.Event()
    hurry = asyncio.Event()
    changed = asyncio.Event()

    def signalled() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, signalled)
    if parent is None:
        loop.add_signal_handler(signal.SIGINT, signalled)
    else:
        # A terminal interrupts all processes; workers wait until their parent tells them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_reader(parent, stop.set)
    if links is not None:
        loop.add_signal_handler(signal.SIGHUP, changed.set)
    try:
        server = Server(components, options)
        await server.start()
    except (OSError, ValueError, PlaneError, NoComponentError, MissingExtraError) as error:
        raise _start_error(error) from error
    spare_collector()
    relinking: asyncio.Task[None] | None = None
    try:
        on_ready(server)
        if links is not None:
            relinking = asyncio.create_task(_relink(server, links, changed, on_ready))
        await stop.wait()
        _log.info("draining; open calls have %g s", options.grace_s)
    finally:
        if relinking is not None:
            relinking.cancel()
            await asyncio.wait([relinking])
        if parent is not None:
            loop.remove_reader(parent)
        stopping = asyncio.create_task(server.stop())
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((stopping, hurried), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await server.stop(0)
        hurried.cancel()
        await stopping


async def _relink(
    server: Server, links: ReadLinks, changed: asyncio.Event, on_ready: OnReady
) -> None:
    """Take links where ``links`` says, each time that ``changed`` is set."""
    while True:
        await changed.wait()
        changed.clear()
        try:
            addresses = await asyncio.to_thread(links)
            await server.relink(addresses)
        except (OSError, ValueError, PlaneError, MissingExtraError) as error:
            reason = error.message if isinstance(error, PlaneError) else str(error)
            _log.error("links are taken where they were: %s", reason)
        else:
            on_ready(server)
