"""How the index grows: memory, events, finds and choices, by blocks and by workers.

    python bench/router_scale.py [--full] [--plot FILE.html]

The workers, 1,000 or fewer, have sequences of 128 blocks of 16 tokens, each in one cache, a tenth
in two. Each size is measured in a process of its own. Events are read from their bytes, and told
by the median; finds and choices by the best of many short windows, of prompts by turns
that are all there. ``--full`` goes on to 10 million blocks, for which it needs some 2 GiB.

What follows is when one process is not enough any more, and the index has to go into parts by
prefix. It has to apply what its workers tell: a full cache loses as many blocks as it gets, and a
worker that computes 10,000 tokens a second gets 625 blocks. Half of the process's time is for that,
the other half for requests.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from report import Claim, Row, print_report
from router_plot import plot
from router_side import BLOCK_SIZE, EVENT_BLOCKS, hashes, rate, rss_mib

FULL = "--full" in sys.argv
WORKERS = (8, 64, 250, 1000)
BLOCKS = (10_000, 100_000, 1_000_000, *((3_000_000, 10_000_000) if FULL else ()))
BY_WORKERS = 1_000_000
TOKENS_S = 10_000
KEPT = 2000


@dataclass(frozen=True, slots=True)
class Size:
    """How the index is at one size.

    Attributes:
        workers: How many workers.
        blocks: How many different blocks.
        memory_mib: Memory that they take.
        events: Stored events a second, of 128 blocks each, on the way to that size.
        turnover: Events a second at that size: by turns blocks are stored and old ones removed.
        finds: Finds of 128 blocks a second.
        selects: Choices a second among all workers, by the hashes of 128 blocks.
    """

    workers: int
    blocks: int
    memory_mib: float
    events: float
    turnover: float
    finds: float
    selects: float


def measure(workers: int, blocks: int) -> Size:
    """Fill an index, and measure it."""
    from protoplane.router.v1 import BlocksRemoved, BlocksStored, KvEvent
    from protoplane_components.kv_router import KvIndex, Request, Router, Target, Worker
    from protoplane_components.kv_router.following import apply_event
    from protoplane_components.kv_router.hashing import as_hashes
    from protoplane_components.kv_router.wire import read_stored

    chance = random.Random(4)
    index = KvIndex()
    router = Router(block_size=BLOCK_SIZE, index=index)
    for at in range(workers):
        router.register(Worker(f"w{at}", BLOCK_SIZE))
    targets = [Target(f"w{at}") for at in range(workers)]

    def stored(names: list[int], sequence: list[int]) -> bytes:
        change = BlocksStored(block_hashes=names, tokens_hashes=sequence)
        return KvEvent(worker="w", event_id=1, stored=change).to_bytes()

    def removed(names: list[int]) -> bytes:
        change = BlocksRemoved(block_hashes=names[::-1])
        return KvEvent(worker="w", event_id=1, removed=change).to_bytes()

    def apply(target: Target, data: bytes) -> float:
        began = time.perf_counter()
        apply_event(index, target, read_stored(data) or KvEvent.from_bytes(data))
        return time.perf_counter() - began

    before, spent = rss_mib(), list[float]()
    kept: list[tuple[Target, NDArray[np.uint64], NDArray[np.uint64]]] = []
    count = blocks // EVENT_BLOCKS
    for number in range(count):
        sequence = hashes(chance, EVENT_BLOCKS)
        held = [
            (chance.choice(targets), hashes(chance, EVENT_BLOCKS))
            for _ in range(1 + (number % 10 == 0))
        ]
        spent += [apply(target, stored(names, sequence)) for target, names in held]
        if number % max(1, count // KEPT) == 0:
            target, names = held[0]
            kept.append((target, as_hashes(names), as_hashes(sequence)))
    memory = rss_mib() - before
    prompts = [sequence for _, _, sequence in kept]
    requests = [Request(hashes=prompt) for prompt in prompts]
    turns = iter(range(1 << 60))
    finds = max(rate(lambda: index.find(prompts[next(turns) % len(prompts)])) for _ in range(3))
    selects = max(
        rate(lambda: router.select(requests[next(turns) % len(requests)])) for _ in range(3)
    )
    again: list[float] = []
    chance.shuffle(kept)
    for target, names_kept, _ in kept:
        new = stored(hashes(chance, EVENT_BLOCKS), hashes(chance, EVENT_BLOCKS))
        again.append(apply(target, new) + apply(target, removed(names_kept.tolist())))
    return Size(workers, blocks, memory, 1 / median(spent), 2 / median(again), finds, selects)


def measured(workers: int, blocks: int) -> Size:
    """The same, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(workers), str(blocks)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=900,
        check=True,
    )
    return Size(**json.loads(done.stdout))


def most_workers(size: Size) -> float:
    """How many workers one process can follow with half of its time."""
    return size.turnover / 2 / (2 * TOKENS_S / BLOCK_SIZE / EVENT_BLOCKS)


def main() -> None:
    """Measure all sizes, and print."""
    by_blocks = [measured(max(WORKERS), blocks) for blocks in BLOCKS]
    by_workers = [
        *(measured(workers, BY_WORKERS) for workers in WORKERS[:-1]),
        by_blocks[BLOCKS.index(BY_WORKERS)],
    ]
    rows: list[Row] = []
    for size in dict.fromkeys([*by_workers, *by_blocks]):
        at = f"{size.workers:,} workers, {size.blocks:,} blocks"
        rows += [
            Row(at, "memory", size.memory_mib, "MiB"),
            Row(at, "stored events of 128 blocks", size.events, "/s"),
            Row(at, "stored and removed events", size.turnover, "/s"),
            Row(at, "find of 128 blocks", size.finds, "/s"),
            Row(at, "select of 2,048 tokens by hashes", size.selects, "/s"),
        ]
    least, most = by_blocks[0], by_blocks[-1]
    held = most.blocks * 1.1
    rows += [
        Row("one process", "memory of a block in a cache", most.memory_mib * 2**20 / held, "bytes"),
        Row("one process", "blocks in 8 GiB", held * 8192 / most.memory_mib / 1e6, "million"),
        Row("one process", "workers whose events take half of it", most_workers(most), ""),
    ]
    if "--plot" in sys.argv:
        charts: dict[tuple[str, str, str], dict[str, list[tuple[float, float]]]] = {}
        for across, sizes, name in (
            (f"blocks, of {max(WORKERS):,} workers", by_blocks, "blocks"),
            (f"workers, with {BY_WORKERS:,} blocks", by_workers, "workers"),
        ):
            for title, values in (
                ("index memory, MiB", {"memory": "memory_mib"}),
                ("events of 128 blocks, /s", {"stored": "events", "both": "turnover"}),
                ("finds and choices, /s", {"find": "finds", "select": "selects"}),
            ):
                charts[title, across, ""] = {
                    line: [(getattr(size, name), getattr(size, value)) for size in sizes]
                    for line, value in values.items()
                }
        plot(Path(sys.argv[sys.argv.index("--plot") + 1]), charts)
    print_report(
        "router_scale",
        rows,
        [
            Claim(
                f"{name}, with {most.blocks:,} blocks by {least.blocks:,}",
                0.5,
                getattr(most, value) / getattr(least, value),
            )
            for name, value in (
                ("stored events", "events"),
                ("find", "finds"),
                ("select", "selects"),
            )
        ],
        ("numpy", "xxhash"),
    )


if __name__ == "__main__":
    if "--one" in sys.argv:
        print(json.dumps(asdict(measure(int(sys.argv[-2]), int(sys.argv[-1])))))
    else:
        main()
