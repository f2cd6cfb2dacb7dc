"""``protoplane up``."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.records import Phase, StackRecord
from protoplane_components.stack.settings import POLICIES, StackSettings
from protoplane_components.stack.starting import AlreadyUpError, Started, start
from protoplane_components.stack.watching import changes, failure, until_ready
from protoplane_runtime import terminal
from protoplane_runtime.engines.folders import default_folder
from protoplane_runtime.sockets import Address

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from protoplane_components.stack.table import Traffic

_EXAMPLE = """
\b
Examples:
  protoplane up
  protoplane up --workers 2 --http 127.0.0.1:8000 --policy least-loaded
  protoplane up --detach && protoplane chat "Tell me a story"; protoplane down
"""


class _HostPort(click.ParamType[str]):
    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        try:
            address = Address.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if address.path:
            self.fail(f"{value} is a unix socket; give host:port", param, ctx)
        return str(address)


@click.command(epilog=_EXAMPLE)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=3,
    show_default=True,
    help="How many inference workers.",
)
@click.option(
    "--http",
    type=_HostPort(),
    default="127.0.0.1:8080",
    show_default=True,
    help="Where the gateway takes HTTP; port 0 picks one.",
)
@click.option("--grpc", type=_HostPort(), help="Where it takes gRPC too.")
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="kv",
    show_default=True,
    help="How a worker is chosen.",
)
@click.option(
    "--backend",
    metavar="URL",
    help="What the workers run: embedded:, torch:FOLDER, triton://…, openai+http://…  "
    "[default: $PROTOPLANE_BACKEND, else embedded:]",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where it keeps its state: the engine local:FOLDER, logs in FOLDER/stack/logs.  "
    "[default: the folder of local:]",
)
@click.option("--detach", "-d", is_flag=True, help="Leave it running in the background.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    help="Seconds that it has to be ready.",
)
@click.option(
    "--json",
    "plain",
    is_flag=True,
    help="Print lines of JSON, one for each change; also where stdout is no terminal.",
)
def up(
    *,
    workers: int,
    http: str,
    grpc: str | None,
    policy: str,
    backend: str | None,
    folder: Path | None,
    detach: bool,
    timeout_s: float,
    plain: bool,
) -> None:
    """Bring up a whole stack on this machine, and show how it does until Ctrl-C.

    A gateway, an orchestrator, a registry, a KV router and inference workers, each a process of its
    own. One that dies is started again. `protoplane down` ends a stack that was detached.
    """
    with terminal.errors():
        settings = StackSettings(
            folder=(folder or default_folder()).absolute(),
            workers=workers,
            http=http,
            grpc=grpc,
            policy=policy,
            backend=backend,
        )
        try:
            started = start(settings, attached=not detach)
        except AlreadyUpError:
            place = StackPlace(settings.folder)
            if detach:
                _wait(place, timeout_s)
            _already(place, settings, plain=plain)
            return
        # From here on there is something to end.
        if detach:
            asyncio.run(_detached(started, timeout_s, plain=plain))
        elif plain or not terminal.is_terminal():
            asyncio.run(_printed(started))
        else:
            asyncio.run(_shown(started))


def _wait(place: StackPlace, within_s: float) -> None:
    """Let a stack that somebody else has just started become ready."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        record = place.read()
        if record is not None and record.phase is not Phase.STARTING:
            return
        if record is None and place.owner() is None:
            return
        time.sleep(0.05)


def _already(place: StackPlace, settings: StackSettings, *, plain: bool) -> None:
    record = place.read()
    if record is not None and record.phase in (Phase.STOPPING, Phase.FAILED):
        terminal.fail("what was up there is just ending; try again in a moment")
    if plain and record is not None:
        click.echo(record.model_dump_json())
    else:
        where = "" if record is None else f" at {record.http}"
        if terminal.is_terminal():
            _print_table(record)
        click.echo(f"it is up already{where}; {_command(record, 'down')} ends it")
    if record is not None and (record.workers, record.policy) != (
        settings.workers,
        settings.policy,
    ):
        terminal.fail(
            f"what is up has {record.workers} workers and the policy {record.policy}, not "
            f"{settings.workers} and {settings.policy}; end it with protoplane down first"
        )


def _hint(record: StackRecord, end: str) -> str:
    chat = _command(record, "chat")
    return f"{chat} talks to it, {record.http}/console shows it, {end} ends it"


def _command(record: StackRecord | None, name: str) -> str:
    """A command for this stack, to be copied."""
    if record is None or Path(record.folder) == default_folder():
        return f"protoplane {name}"
    return f"protoplane {name} --folder {shlex.quote(record.folder)}"


def _print_table(record: StackRecord | None) -> None:
    from rich.console import Console

    from protoplane_components.stack.table import stack_table

    if record is not None:
        console = Console()
        console.print(stack_table(record, {}, width=console.width))


async def _detached(started: Started, timeout_s: float, *, plain: bool) -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(until_ready(started, timeout_s))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, waiting.cancel)
    try:
        record, models = await waiting
    except BaseException as error:
        # What is not ready is not left behind.
        started.stop()
        async for _ in changes(started):
            pass
        started.wait()
        if isinstance(error, asyncio.CancelledError):
            raise SystemExit(terminal.INTERRUPTED) from None
        raise
    started.leave()
    if plain:
        click.echo(record.model_dump_json())
        return
    if not terminal.is_terminal():
        click.echo(f"up at {record.http}")
        return
    _print_table(record)
    if models:
        click.echo(f"models: {', '.join(models)}")
    click.echo(f"logs: {started.place.logs}")
    click.echo(_hint(record, _command(record, "down")))


async def _printed(started: Started) -> None:
    _stop_at_signals(started)
    record: StackRecord | None = None
    async for record in changes(started):
        click.echo(record.model_dump_json())
    _ended(started, record)


async def _shown(started: Started) -> None:
    from rich.console import Console
    from rich.live import Live

    from protoplane_components.stack.traffic import follow_traffic

    _stop_at_signals(started)
    console = Console()
    view = _View(console)
    with Live(console=console, auto_refresh=False, get_renderable=view.render) as live:
        ticking = asyncio.create_task(_tick(live))
        asking: asyncio.Task[None] | None = None
        try:
            async for view.record in changes(started):
                live.refresh()
                if asking is None and view.ready:
                    asking = asyncio.create_task(follow_traffic(view.current, view.see))
        finally:
            tasks = [ticking] if asking is None else [ticking, asking]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            live.refresh()
    _ended(started, view.record)


class _View:
    """What is on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.record: StackRecord | None = None
        self._traffic: Mapping[str, Traffic] = {}

    @property
    def ready(self) -> bool:
        return self.record is not None and self.record.phase is Phase.READY

    def current(self) -> StackRecord:
        assert self.record is not None
        return self.record

    def see(self, traffic: Mapping[str, Traffic]) -> None:
        self._traffic = traffic

    def render(self) -> RenderableType:
        from protoplane_components.stack.table import stack_table

        if self.record is None:
            return ""
        hint = _hint(self.record, "Ctrl-C") if self.ready else ""
        return stack_table(self.record, self._traffic, width=self._console.width, hint=hint)


async def _tick(live: Live) -> None:
    """Keep the times on the screen true."""
    while True:
        await asyncio.sleep(0.5)
        live.refresh()


def _stop_at_signals(started: Started) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, started.stop)


def _ended(started: Started, record: StackRecord | None) -> None:
    code = started.wait()
    if code and record is not None and record.reason:
        raise failure(started, record)
    if code:
        raise SystemExit(terminal.FAILED)
