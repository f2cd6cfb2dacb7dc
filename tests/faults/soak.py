"""Publishers and groups of subscribers, and ``kill -9`` at random: what was acknowledged arrives.

    python -m tests.faults.soak [--engine local:|nats:|zenoh:] [--minutes 3] [--json]

A thousand publishers in ten processes publish durable events under ``forge/**``, each one under a
key of its own, to fifty groups, each with members in two of ten processes. All the while, one after
the other is killed and started again: processes of publishers, of members, and the NATS server.
In the end each group must have got each event that was acknowledged to its publisher, at least
once, and in order within its key. It ends with 1 where that is not so.

With ``zenoh:`` each process is a node with a folder of its own, and has its events to give out: so
those that published stay until all have all.

What is killed is a process, not the machine: so a journal needs no disk to be true.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tests.faults.soak_journals import Journals, Verdict
from tests.faults.soak_worker import Given
from tests.nats_server import NatsServer, NatsServers

from protoplane_runtime.engines.opening import open_engine

ROOT = Path(__file__).parents[2]
ENGINES = ("local:", "nats:", "zenoh:")

_LOOK_S = 0.5
_STOP_S = 60.0
_ENGINE_AWAY_S = 1.0

_PUBLISHERS, _MEMBERS, _ENGINE = "processes of publishers", "processes of members", "NATS servers"


class SoakError(Exception):
    """A process ended by itself, or does not end; the message says which."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        engine: ``local:``, ``nats:`` or ``zenoh:``.
        seconds: For how long events are published and processes killed.
        publishers: How many publishers.
        groups: How many groups.
        rate: Events a second of all publishers together.
        publisher_processes: Processes that the publishers are spread over.
        member_processes: Processes of members; each group is in two of them.
        kill_every_s: Seconds from one kill to the next, on average.
        patience_s: Seconds without a delivery after which what is missing is given up.
        visibility_s: Seconds for which an event is with a member. Of a Zenoh node that was killed,
            nobody knows until then what it had just given to whom.
    """

    engine: str
    seconds: float
    publishers: int = 1_000
    groups: int = 50
    rate: float = 100.0
    publisher_processes: int = 10
    member_processes: int = 10
    kill_every_s: float = 3.0
    patience_s: float = 90.0
    visibility_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found.

    Attributes:
        verdict: What became of the events.
        killed: How many of what were killed.
        dead_letters: Events that became dead letters, in all groups together.
        caught_up_s: Seconds from the last event until all groups had all.
    """

    verdict: Verdict
    killed: Counter[str]
    dead_letters: int
    caught_up_s: float

    def counts(self) -> dict[str, int]:
        """All that was counted."""
        return {
            "durable events acknowledged": self.verdict.acknowledged,
            "deliveries": self.verdict.deliveries,
            "deliveries of what was delivered before": self.verdict.repeated,
            "of them, after a later event of their key": self.verdict.late_repeats,
            **{f"{what} killed": count for what, count in sorted(self.killed.items())},
            "acknowledged events missing": self.verdict.missing,
            "events out of order": self.verdict.out_of_order,
            "gaps": self.verdict.gaps,
            "dead letters": self.dead_letters,
        }

    @property
    def holds(self) -> bool:
        """Whether nothing is missing or out of order."""
        return self.verdict.holds and not self.dead_letters


@dataclass
class Slot:
    """A place where a process runs, or several one after the other.

    Attributes:
        role: ``publish`` or ``consume``.
        name: What tells it from the others.
        given: What its first process is given.
        folder: Where the journals are.
    """

    role: str
    name: str
    given: Given
    folder: Path
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a process; no other may run there."""
        journal = self.folder / f"{self.role}-{self.name}-{self.generation}"
        given = replace(self.given, journal=str(journal), generation=self.generation)
        self.generation += 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.soak_worker", self.role, given.to_json()],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for who started it.
        )

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._close()

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            SoakError: It does not.
        """
        if self.process is not None and self.process.poll() is not None:
            raise SoakError(f"{self.role} {self.name} ended by itself, see above why")

    def tell_end(self) -> None:
        """Let it end; `wait` for that."""
        self._close()

    def wait(self) -> None:
        """Wait until it has ended.

        Raises:
            SoakError: It does not, or not well.
        """
        if self.process is None:
            return
        try:
            code = self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            raise SoakError(f"{self.role} {self.name} does not end") from None
        if code != 0:
            raise SoakError(f"{self.role} {self.name} ended with {code}, see above why")

    def _close(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


@dataclass
class _Broker:
    """The NATS server, which starts again where it was."""

    servers: NatsServers
    server: NatsServer = field(init=False)

    def __post_init__(self) -> None:
        self.server = self.servers.start()

    def restart(self) -> None:
        """Kill it, leave it away for a moment and start it again."""
        self.server.kill()
        time.sleep(random.uniform(0, _ENGINE_AWAY_S))
        self.server = self.servers.start(self.server.port)


Told = Callable[[float, Journals, Counter[str]], None]
"""Is told of the progress: seconds since the beginning, the journals so far, what was killed."""


def soak(plan: Plan, folder: Path, told: Told | None = None) -> Outcome:
    """Run a plan.

    Args:
        plan: What to run.
        folder: An empty folder for all files.
        told: Is told of the progress now and then.

    Raises:
        SoakError: A process did what it should not.
    """
    journals_folder = folder / "journals"
    journals_folder.mkdir()
    groups = tuple(f"group-{number}" for number in range(plan.groups))
    journals, killed = Journals(journals_folder, groups), Counter[str]()
    with ExitStack() as stack:
        broker: _Broker | None = None
        if plan.engine == "nats:":
            (folder / "nats").mkdir()
            broker = _Broker(stack.enter_context(NatsServers(folder / "nats")))
            urls = [f"{broker.server.url}?duplicates_s=600"]
        elif plan.engine == "zenoh:":
            urls = _nodes(folder, plan.publisher_processes + plan.member_processes + 2)
        else:
            urls = [f"local:{folder}/engine"]
        publishers, members = _slots(plan, urls, journals_folder, groups)
        for slot in (*members, *publishers):
            stack.callback(slot.kill)
            slot.start()
        began = time.monotonic()

        def tell() -> None:
            if told is not None:
                told(time.monotonic() - began, journals, killed)

        for _ in _kills(plan, publishers, members, broker, killed):
            for slot in (*publishers, *members):
                slot.check()
            journals.read()
            tell()
        _end(publishers)
        if plan.engine == "zenoh:":
            for slot in publishers:
                slot.given = replace(slot.given, publishers=())
                slot.start()
        ended = time.monotonic()
        _wait_for_all(plan, journals, tell)
        caught_up_s = time.monotonic() - ended
        dead_letters = asyncio.run(_dead_letters(urls[-1]))
        _end(members)
        journals.read()
        return Outcome(journals.verdict(), killed, dead_letters, caught_up_s)


def _nodes(folder: Path, count: int) -> list[str]:
    """URLs of so many nodes of a Zenoh network, each of which knows all others."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        places = [f"tcp/127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
    return [
        f"zenoh:{','.join(other for other in places if other != place)}?listen={place}"
        f"&folder={folder}/node-{number}"
        for number, place in enumerate(places)
    ]


def _slots(
    plan: Plan, urls: Sequence[str], folder: Path, groups: Sequence[str]
) -> tuple[list[Slot], list[Slot]]:
    """Where processes run; they take turns at the engine's URLs."""
    count = plan.publisher_processes
    engines = cycle(urls)
    publishers = [
        Slot(
            "publish",
            str(place),
            Given(
                next(engines),
                "",
                0,
                publishers=tuple(range(place, plan.publishers, count)),
                every_s=plan.publishers / plan.rate,
            ),
            folder,
        )
        for place in range(count)
    ]
    half = max(1, plan.member_processes // 2)
    members = [
        Slot(
            "consume",
            str(place),
            Given(
                next(engines),
                "",
                0,
                groups=groups[place % half :: half],
                visibility_s=plan.visibility_s,
            ),
            folder,
        )
        for place in range(2 * half)
    ]
    return publishers, members


def _kills(
    plan: Plan,
    publishers: Sequence[Slot],
    members: Sequence[Slot],
    broker: _Broker | None,
    killed: Counter[str],
) -> Generator[None]:
    """Kill one after the other, each kind as often, until the time is over; yields now and then.

    Each kind is killed once at least, however long that takes.
    """
    kinds = [_PUBLISHERS, _MEMBERS, *([_ENGINE] if broker else [])]
    until = time.monotonic() + plan.seconds
    order: list[str] = []
    next_kill = time.monotonic() + plan.kill_every_s
    while (now := time.monotonic()) < until or len(killed) < len(kinds):
        if now >= next_kill:
            order = order or random.sample(kinds, len(kinds))
            kind = order.pop()
            if kind == _ENGINE:
                assert broker is not None
                broker.restart()
            else:
                slot = random.choice(publishers if kind == _PUBLISHERS else members)
                slot.kill()
                slot.start()
            killed[kind] += 1
            next_kill = now + plan.kill_every_s * random.uniform(0.5, 1.5)
        yield
        time.sleep(max(0.0, min(_LOOK_S, next_kill - time.monotonic())))


def _wait_for_all(plan: Plan, journals: Journals, tell: Callable[[], None]) -> None:
    """Wait until all have all, or nothing comes any more."""
    journals.read()
    seen, last = journals.delivery_count, time.monotonic()
    while journals.missing() and time.monotonic() - last < plan.patience_s:
        time.sleep(_LOOK_S)
        journals.read()
        tell()
        if journals.delivery_count != seen:
            seen, last = journals.delivery_count, time.monotonic()


def _end(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.check()
        slot.tell_end()
    for slot in slots:
        slot.wait()


async def _dead_letters(url: str) -> int:
    engine = await open_engine(url)
    try:
        return sum(status.dead_lettered for status in await engine.groups.list())
    finally:
        await engine.close()


@contextmanager
def _shown(plan: Plan, console: Console) -> Generator[Told]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"soak of {plan.engine}", total=plan.seconds, counts="")

        def told(seconds: float, journals: Journals, killed: Counter[str]) -> None:
            progress.update(
                task,
                completed=min(seconds, plan.seconds),
                counts=f"{journals.acknowledged_count:,} acknowledged, "
                f"{journals.delivery_count:,} delivered, {killed.total()} killed",
            )

        yield told


@click.command()
@click.option("--engine", type=click.Choice(ENGINES), default="local:", show_default=True)
@click.option("--minutes", type=float, default=3.0, show_default=True)
@click.option("--publishers", type=int, default=1_000, show_default=True)
@click.option("--groups", type=int, default=50, show_default=True)
@click.option("--rate", type=float, default=100.0, show_default=True, help="Events a second.")
@click.option("--kill-every", type=float, default=3.0, show_default=True, help="Seconds.")
@click.option("--json", "plain", is_flag=True, help="End with a line of JSON.")
def main(
    *,
    engine: str,
    minutes: float,
    publishers: int,
    groups: int,
    rate: float,
    kill_every: float,
    plain: bool,
) -> None:
    """Publish, kill, and see what became of what was acknowledged."""
    plan = Plan(engine, minutes * 60, publishers, groups, rate, kill_every_s=kill_every)
    console = Console(stderr=plain)
    # Temporary folders are in memory on some systems, where nothing can be durable.
    disk = ROOT / ".build"
    disk.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=disk, prefix="soak-") as folder:
        try:
            with _shown(plan, console) as told:
                outcome = soak(plan, Path(folder), told)
        except SoakError as error:
            raise click.ClickException(str(error)) from None
    table = Table("what", "count", title=f"soak of {engine}", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("publishers, groups", f"{publishers:,}, {groups}")
    table.add_row("seconds, events a second asked for", f"{plan.seconds:g}, {rate:g}")
    table.add_row("acknowledged a second", f"{outcome.verdict.acknowledged / plan.seconds:.0f}")
    table.add_row("seconds until all had all", f"{outcome.caught_up_s:.1f}")
    for what, count in outcome.counts().items():
        table.add_row(what, f"{count:,}")
    console.print(table)
    if plain:
        figures = {"plan": asdict(plan), "counts": outcome.counts(), "holds": outcome.holds}
        click.echo(json.dumps(figures))
    raise SystemExit(0 if outcome.holds else 1)


if __name__ == "__main__":
    os.environ.pop("PROTOPLANE_ENGINE", None)
    main()
