"""The KV router against NVIDIA Dynamo's: finds, stored events, memory, choices; and how ours grows.

Both sides are Python processes that stay up, and take turns: a round of one, a round of the other.
Finds and choices are told by the best of many short
windows, events by the median of batches in turn: others use the machine, too. Dynamo's package
gets an environment of its own, which is made once in ``.build``; where that is not possible its
rows are missing, with the reason.

    python bench/router.py [--full] [--plot FILE.html]

``--full`` takes 64,000 events of 128 blocks instead of 8,000, and up to 1,000 workers with 10
million blocks instead of one million, for which it needs some 4 GiB.

Of the workloads, ``shared`` is a prompt that all 32 workers have, ``conversation`` one of which
most have the system prompt and some more, ``turns`` sixteen of these by turns that have the system
prompt in common, and in ``ragged`` each of the 32 has it to a depth of its own. Ours looks first
where it found ends when the same conversation was asked for last; these stay right here, so a
first look is told too, as ``unseen``.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from report import Claim, Row, print_report
from router_plot import plot
from router_side import BATCH, BLOCK_SIZE, EVENT_BLOCKS, hashes, rate, rss_mib

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".build" / "venv-dynamo"
DYNAMO = "ai-dynamo-runtime==1.6.1"
WORKLOADS = ("shared", "conversation", "turns", "ragged", "unseen")
ROUNDS = 5
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Size:
    """How our index is at one size."""

    workers: int
    blocks: int
    memory_mib: float
    events: float
    finds: float
    selects: float


class Side:
    """A process that does what it is ordered."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, *arguments: object) -> Any:
        """The answer to an order.

        Raises:
            RuntimeError: The process has ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a side has pipes")
        self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            # Dynamo logs to the same place.
            if line.startswith(("null", "[")) or line[0].isdigit():
                try:
                    return json.loads(line)
                except ValueError:
                    continue
        raise RuntimeError(f"it ended while it did {do!r}")


@contextmanager
def side(python: str, name: str) -> Generator[Side]:
    """A side, for a while."""
    with subprocess.Popen(
        [python, str(HERE / "router_side.py"), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Side(process)
        finally:
            process.kill()


def runs(python: str) -> bool:
    """Whether there is such an interpreter, and not only a name that a version manager left."""
    found = shutil.which(python)
    return (
        found is not None
        and subprocess.run(
            [found, "-c", ""], stderr=subprocess.DEVNULL, timeout=60, check=False
        ).returncode
        == 0
    )


def dynamo_python() -> tuple[str | None, str]:
    """The interpreter of Dynamo's environment, or why there is none."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    if not done.exists():
        base = next(filter(runs, ("python3.12", "python3.13", sys.executable)), sys.executable)
        steps = (
            [base, "-m", "venv", "--clear", str(ENVIRONMENT)],
            [str(python), "-m", "pip", "install", "--quiet", DYNAMO],
        )
        for step in steps:
            made = subprocess.run(step, capture_output=True, text=True, timeout=600, check=False)
            if made.returncode:
                return None, (made.stderr.strip() or "it cannot be installed").splitlines()[-1]
        done.touch()
    return str(python), ""


def compare(python: str | None, events: int) -> dict[str, tuple[float, float]]:
    """Figures of both sides by name; NaN for a side that is not there."""
    found: dict[str, tuple[float, float]] = {}
    with ExitStack() as stack:
        ours = stack.enter_context(side(sys.executable, "ours"))
        theirs = stack.enter_context(side(python, "dynamo")) if python else None
        if theirs:
            for names in (("", ""), ("adapter", ""), ("", "tenant"), ("adapter", "tenant")):
                if ours.ask("names", *names) != theirs.ask("names", *names):
                    raise RuntimeError(f"block hashes differ for {names}")
        orders: list[tuple[str, str, tuple[object, ...]]] = [
            (f"find, {workload}", "find", (workload,)) for workload in WORKLOADS
        ]
        orders.append(("select", "select", ()))
        for name, do, arguments in orders:
            mine, other = 0.0, 0.0 if theirs else _NAN
            for _ in range(ROUNDS):
                mine = max(mine, ours.ask(do, *arguments))
                if theirs:
                    other = max(other, theirs.ask(do, *arguments))
            found[name] = (mine, other)
    with ExitStack() as stack:
        # Memory is told only by fresh processes.
        pythons = ((sys.executable, "ours"), (python, "dynamo"))
        fresh = [stack.enter_context(side(at, name)) for at, name in pythons if at is not None]
        spent: list[list[float]] = [[] for _ in fresh]
        for each in fresh:
            each.ask("start_events")
        for _ in range(events // BATCH):
            for each, seconds in zip(fresh, spent, strict=True):
                seconds.append(each.ask("events"))
        rates = [BATCH / median(seconds) for seconds in spent]
        memories = [each.ask("memory") for each in fresh]
    found["events"] = (rates[0], rates[1] if python else _NAN)
    found["memory"] = (memories[0], memories[1] if python else _NAN)
    return found


def grow(workers: int, blocks: int, parts: int = 1) -> Size:
    """How our index does at a size: sequences of 128 blocks, each in one cache, a tenth in two."""
    from protoplane_components.kv_router import (
        KvIndex,
        Request,
        Router,
        ShardedIndex,
        Target,
        Worker,
    )
    from protoplane_components.kv_router.hashing import as_hashes

    chance = random.Random(4)
    index = KvIndex() if parts == 1 else ShardedIndex(count=parts)
    router = Router(block_size=BLOCK_SIZE, index=index)
    for at in range(workers):
        router.register(Worker(f"w{at}"))
    before, spent, events = rss_mib(), 0.0, 0
    kept: list[list[int]] = []
    for number in range(blocks // EVENT_BLOCKS):
        sequence = hashes(chance, EVENT_BLOCKS)
        owners = [Target(f"w{chance.randrange(workers)}") for _ in range(1 + (number % 10 == 0))]
        arrays = [as_hashes(hashes(chance, EVENT_BLOCKS)) for _ in owners]
        blocks_of = as_hashes(sequence)
        began = time.perf_counter()
        for owner, names in zip(owners, arrays, strict=True):
            index.store(owner, names, blocks_of)
        spent += time.perf_counter() - began
        events += len(owners)
        if number % max(1, blocks // EVENT_BLOCKS // 64) == 0:
            kept.append(sequence)
    memory = rss_mib() - before
    prompts = [as_hashes(sequence) for sequence in kept]
    requests = [Request(hashes=prompt) for prompt in prompts]
    turns = iter(range(1 << 60))
    finds = max(rate(lambda: index.find(prompts[next(turns) % len(prompts)])) for _ in range(2))
    selects = max(
        rate(lambda: router.select(requests[next(turns) % len(requests)])) for _ in range(2)
    )
    return Size(workers, blocks, memory, events / spent, finds, selects)


def main() -> None:
    """Compare, grow, and print."""
    full = "--full" in sys.argv
    python, reason = dynamo_python()
    if python is None:
        print(f"No figures of Dynamo: {reason}")
    found = compare(python, 64_000 if full else 8_000)
    units = {"memory": "MiB"}
    rows = [
        Row(
            f"{name}, {whose}",
            "rate" if name != "memory" else "growth",
            value,
            units.get(name, "/s"),
        )
        for name, pair in found.items()
        for whose, value in zip(("ours", "dynamo"), pair, strict=True)
        if not math.isnan(value)
    ]
    most = 10_000_000 if full else 1_000_000
    sizes = [
        grow(workers, blocks)
        for workers, blocks in (
            (8, most // 100),
            (64, most // 10),
            (1000, most // 10),
            (1000, most),
        )
    ]
    for size in sizes:
        at = f"{size.workers} workers, {size.blocks:,} blocks"
        rows += [
            Row(at, "memory", size.memory_mib, "MiB"),
            Row(at, "events of 128 blocks", size.events, "/s"),
            Row(at, "find of 128 blocks", size.finds, "/s"),
            Row(at, "select of 2,048 tokens by hashes", size.selects, "/s"),
        ]
    if "--plot" in sys.argv:
        plot(Path(sys.argv[sys.argv.index("--plot") + 1]), sizes)

    def ratio(name: str) -> float:
        mine, other = found[name]
        return mine / other

    print_report(
        "router",
        rows,
        [
            *(
                Claim(
                    f"find of 512 blocks, {workload}, times Dynamo", 2, ratio(f"find, {workload}")
                )
                for workload in WORKLOADS
            ),
            Claim("select of 2,048 tokens, times Dynamo", 1, ratio("select")),
            Claim("stored events, times Dynamo", 1, ratio("events")),
            Claim("memory, times Dynamo", 2, ratio("memory"), at_most=True),
        ],
        ("numpy", "xxhash"),
    )


if __name__ == "__main__":
    main()
