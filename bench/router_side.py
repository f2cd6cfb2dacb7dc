"""One side of `bench/router.py`, in a process of its own: ours, or Dynamo in its environment.

It imports nothing of ours on Dynamo's side, which has another Python. An order is a line of JSON on
standard input, the answer a line of JSON on standard output. Both sides make the same workload
from the same seed.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

BLOCKS = 512
WORKERS = 32
CONVERSATIONS = {"turns": 16, "unseen": 256}
EVENT_BLOCKS = 128
BATCH = 25
PROMPT_TOKENS = 2048
BLOCK_SIZE = 16
SELECT_WORKERS = 8
PROMPT = [7 * token % (1 << 32) for token in range(600_000_000, 600_000_100)]


def hashes(chance: random.Random, count: int) -> list[int]:
    """Hashes of blocks."""
    return [chance.getrandbits(64) for _ in range(count)]


def depths(workload: str) -> list[int]:
    """How many blocks of the prompt each worker has."""
    if workload == "shared":
        return [BLOCKS] * WORKERS
    if workload in {"conversation", "turns", "unseen"}:
        # All have the system prompt, some an earlier turn, and one the last one.
        return [64] * (WORKERS - 6) + [128, 128, 256, 256, 384, 500]
    return [(at + 1) * BLOCKS // WORKERS for at in range(WORKERS)]


def prompts(workload: str) -> list[list[int]]:
    """What is asked for in turn."""
    chance = random.Random(1)
    first = hashes(chance, BLOCKS)
    if workload not in CONVERSATIONS:
        return [first]
    return [first[:64] + hashes(chance, BLOCKS - 64) for _ in range(CONVERSATIONS[workload])]


def depth(expected: list[int], worker: int, number: int) -> int:
    """How many blocks of one of the prompts a worker has: each is at home elsewhere."""
    return expected[(worker + 6 * number) % WORKERS]


def rss_mib() -> float:
    """Memory of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def rate(run: Callable[[], object], windows: int = 12, seconds: float = 0.02) -> float:
    """How many times a second, in the best of some short windows: others use the machine, too."""
    best = 0.0
    for _ in range(windows):
        calls = 0
        began = perf_counter()
        while perf_counter() - began < seconds:
            for _ in range(10):
                run()
            calls += 10
        best = max(best, calls / (perf_counter() - began))
    return best


class Ours:
    """`KvIndex` and `Router`."""

    def __init__(self) -> None:
        from protoplane.router.v1 import BlocksRemoved, BlocksStored, KvEvent
        from protoplane_components.kv_router import KvIndex, Request, Router, Target, Worker
        from protoplane_components.kv_router.following import apply_event
        from protoplane_components.kv_router.wire import read_stored

        self.apply = apply_event
        self.event, self.stored, self.read = KvEvent, BlocksStored, read_stored
        self.removed = BlocksRemoved
        self.index = KvIndex
        self.request, self.router, self.worker = Request, Router, Worker
        self.targets = [Target(f"w{at}") for at in range(WORKERS)]

    def find(self, workload: str) -> float:
        """Finds a second, of blocks as `block_hashes` gives them."""
        from protoplane_components.kv_router.hashing import as_hashes

        index = self.index()
        expected = depths(workload)
        asked = prompts(workload)
        for number, prompt in enumerate(asked):
            for at, target in enumerate(self.targets):
                held = prompt[: depth(expected, at, number)]
                index.store(target, held, held)
        blocks = [as_hashes(prompt) for prompt in asked]
        for each in blocks:
            found = index.find(each)
            if sorted(overlap.device for overlap in found.values()) != sorted(expected):
                raise RuntimeError("the index is wrong")
        turns = cycle(blocks)
        return rate(lambda: index.find(next(turns)))

    def names(self, lora: str, namespace: str) -> list[int]:
        """Hashes of the blocks of a prompt."""
        from protoplane_components.kv_router import block_hashes

        found = block_hashes(PROMPT, BLOCK_SIZE, lora=lora, cache_namespace=namespace)
        hashed: list[int] = found.tolist()
        return hashed

    def start_events(self) -> None:
        """Have an empty index."""
        self.chance, self.names_of, self.gone = (random.Random(seed) for seed in (2, 5, 5))
        self.filled = self.index()
        self.before = rss_mib()

    def events(self) -> float:
        """Seconds for some events, from their bytes."""
        batch = [
            self.event(
                worker="w",
                event_id=at + 1,
                stored=self.stored(
                    block_hashes=hashes(self.names_of, EVENT_BLOCKS),
                    tokens_hashes=hashes(self.chance, EVENT_BLOCKS),
                ),
            ).to_bytes()
            for at in range(BATCH)
        ]
        index, targets, read = self.filled, self.targets, self.read
        began = perf_counter()
        for at, data in enumerate(batch):
            stored = read(data)
            if stored is not None:
                index.store(
                    targets[at % WORKERS], stored.engine_hashes, stored.hashes, parent=stored.parent
                )
        return perf_counter() - began

    def turnover(self) -> float:
        """Seconds for some events, and for as many that take the oldest blocks away, end first."""
        batch: list[bytes] = []
        for at in range(BATCH):
            stored = self.stored(
                block_hashes=hashes(self.names_of, EVENT_BLOCKS),
                tokens_hashes=hashes(self.chance, EVENT_BLOCKS),
            )
            removed = self.removed(block_hashes=hashes(self.gone, EVENT_BLOCKS)[::-1])
            batch.append(self.event(worker="w", event_id=2 * at + 1, stored=stored).to_bytes())
            batch.append(self.event(worker="w", event_id=2 * at + 2, removed=removed).to_bytes())
        index, targets, read = self.filled, self.targets, self.read
        began = perf_counter()
        for at, data in enumerate(batch):
            event = read(data) or self.event.from_bytes(data)
            self.apply(index, targets[at // 2 % WORKERS], event)
        return perf_counter() - began

    def memory(self) -> float:
        """Memory of what the events filled, in MiB."""
        return rss_mib() - self.before

    def select(self) -> float:
        """Choices a second."""
        router = self.router(block_size=BLOCK_SIZE)
        for at in range(SELECT_WORKERS):
            router.register(self.worker(f"w{at}"))
        chance = random.Random(3)
        request = self.request(tokens=[chance.randrange(1 << 17) for _ in range(PROMPT_TOKENS)])
        return rate(lambda: router.select(request))


class Dynamo:
    """`RadixTree` and `SelectionService`."""

    def __init__(self) -> None:
        # No stubs: it lives in an environment of its own.
        core: Any = import_module("dynamo._core")
        self.tree: Any = core.RadixTree
        self.service: Any = core.SelectionService
        self.hash: Any = core.compute_block_hash_for_seq

    def find(self, workload: str) -> float:
        """Finds a second, of blocks as `compute_block_hash_for_seq` gives them."""
        tree = self.tree()
        expected = depths(workload)
        asked = prompts(workload)
        for number, prompt in enumerate(asked):
            for at in range(WORKERS):
                held = prompt[: depth(expected, at, number)]
                tree.apply_event(at, self._stored(number + 1, held, held))
        for each in asked:
            if sorted(tree.find_matches(each).scores.values()) != sorted(expected):
                raise RuntimeError("the tree is wrong")
        turns = cycle(asked)
        return rate(lambda: tree.find_matches(next(turns)).scores)

    def names(self, lora: str, namespace: str) -> list[int]:
        """Hashes of the blocks of a prompt."""
        found: list[int] = self.hash(
            PROMPT, BLOCK_SIZE, lora_name=lora or None, cache_namespace=namespace or None
        )
        return found

    def start_events(self) -> None:
        """Have an empty tree."""
        self.chance, self.names_of, self.gone = (random.Random(seed) for seed in (2, 5, 5))
        self.filled = self.tree()
        self.before = rss_mib()

    def events(self) -> float:
        """Seconds for some events, from their bytes."""
        batch = [
            self._stored(
                at + 1, hashes(self.names_of, EVENT_BLOCKS), hashes(self.chance, EVENT_BLOCKS)
            )
            for at in range(BATCH)
        ]
        apply_event = self.filled.apply_event
        began = perf_counter()
        for at, data in enumerate(batch):
            apply_event(at % WORKERS, data)
        return perf_counter() - began

    def turnover(self) -> float:
        """Seconds for some events, and for as many that take the oldest blocks away, end first."""
        batch: list[bytes] = []
        for at in range(BATCH):
            names = hashes(self.names_of, EVENT_BLOCKS)
            removed = {"removed": {"block_hashes": hashes(self.gone, EVENT_BLOCKS)[::-1]}}
            batch.append(self._stored(2 * at + 1, names, hashes(self.chance, EVENT_BLOCKS)))
            batch.append(
                json.dumps({"event_id": 2 * at + 2, "data": removed, "dp_rank": 0}).encode()
            )
        apply_event = self.filled.apply_event
        began = perf_counter()
        for at, data in enumerate(batch):
            apply_event(at // 2 % WORKERS, data)
        return perf_counter() - began

    def memory(self) -> float:
        """Memory of what the events filled, in MiB."""
        return rss_mib() - self.before

    def select(self) -> float:
        """Choices a second."""
        return asyncio.run(self._select())

    async def _select(self) -> float:
        service = self.service(indexer_threads=1)
        for at in range(SELECT_WORKERS):
            await service.upsert_worker(
                {
                    "worker_id": at,
                    "model_name": "m",
                    "block_size": BLOCK_SIZE,
                    "endpoint": "http://127.0.0.1:9",
                    "total_kv_blocks": 100_000,
                    "max_num_batched_tokens": 8192,
                    "data_parallel_size": 1,
                    "data_parallel_start_rank": 0,
                    # Nobody publishes there: the caches are empty, as on the other side.
                    "kv_events_endpoints": {0: f"ipc:///tmp/no-such-publisher-{at}"},
                }
            )
        chance = random.Random(3)
        request = {
            "model_name": "m",
            "token_ids": [chance.randrange(1 << 17) for _ in range(PROMPT_TOKENS)],
        }
        best = 0.0
        for _ in range(12):
            calls = 0
            began = perf_counter()
            while perf_counter() - began < 0.02:
                for _ in range(10):
                    await service.select(request)
                calls += 10
            best = max(best, calls / (perf_counter() - began))
        service.shutdown()
        return best

    @staticmethod
    def _stored(number: int, engine: list[int], tokens: list[int]) -> bytes:
        blocks = [
            {"block_hash": block, "tokens_hash": token, "mm_extra_info": None}
            for block, token in zip(engine, tokens, strict=True)
        ]
        data = {"stored": {"parent_hash": None, "start_position": None, "blocks": blocks}}
        return json.dumps({"event_id": number, "data": data, "dp_rank": 0}).encode()


def main() -> None:
    """Do what is ordered until there is nothing more."""
    side = Ours() if sys.argv[1] == "ours" else Dynamo()
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(side, order["do"])(*order["with"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
