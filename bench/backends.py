"""Backends: what batching gains, and what streams that were left keep.

- The embedded model writes texts one at a time, and 32 at once.
- A model that takes as long for a batch as for one request, with and without the batcher before it.
- 10,000 streams through a link that their callers leave after the first token.
- A real Triton through the gRPC door, and 200 streams that are left there; see
  bench/backends_triton.py. Skipped, with the reason, where Triton cannot run.

All but the last runs in one process. Rates are those of the median of paired rounds, since the
machine's own pace changes more from minute to minute than what is measured.

    python bench/backends.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from report import Claim, Row, print_report

from protoplane.inference.v1 import GenerateRequest, InferenceClient, SamplingParameters
from protoplane_client import connect
from protoplane_components.inference import Inference
from protoplane_server import Options, Server
from protoplane_server.backends.batcher import Batcher, BatcherOptions
from protoplane_server.backends.embedded.backend import WRITER
from protoplane_server.backends.interface import Backend, BackendContext, Sampling
from protoplane_server.backends.opening import open_backend

PACKAGES = ("numpy", "threadpoolctl", "uvloop")
STREAMS = 32
TOKENS = 200
FIXED_COST_S = 0.005
REQUESTS = 640
LEFT = 10_000
AT_ONCE = 100
MAX_GROWTH_MB = 10.0
FULL = "--full" in sys.argv
ROUNDS = 15 if FULL else 5


async def embedded() -> tuple[list[Row], list[Claim]]:
    """Tokens a second of the embedded model, for one text at a time and for many."""
    backend = open_backend("embedded:")
    await backend.start()
    try:
        await backend.warm_up()
        pairs = [
            (
                await _rate(partial(_one_by_one, backend, round_)),
                await _rate(partial(_at_once, backend, round_)),
            )
            for round_ in range(ROUNDS)
        ]
    finally:
        await backend.stop()
    gain = median(many / one for one, many in pairs)
    rows = [
        Row("embedded, one text at a time", "rate", median(one for one, _ in pairs), "tokens/s"),
        Row(f"embedded, {STREAMS} at once", "rate", median(many for _, many in pairs), "tokens/s"),
    ]
    claim = f"embedded: tokens/s of {STREAMS} texts at once, by those of one at a time"
    return rows, [Claim(claim, 3, gain)]


async def _rate(write: Callable[[], Awaitable[int]]) -> float:
    began = time.perf_counter()
    tokens = await write()
    return tokens / (time.perf_counter() - began)


async def _text(backend: Backend, seed: int) -> int:
    # Hot enough that a text seldom comes to its end by itself.
    sampling = Sampling(seed=seed, max_tokens=TOKENS, temperature=2.0)
    tokens = 0
    async for chunk in backend.generate(WRITER, "The ", sampling, BackendContext()):
        tokens += len(chunk.tokens)
    return tokens


async def _one_by_one(backend: Backend, seed: int) -> int:
    return sum([await _text(backend, 1000 * seed + number) for number in range(8)])


async def _at_once(backend: Backend, seed: int) -> int:
    texts = (_text(backend, 1000 * seed + number) for number in range(STREAMS))
    return sum(await asyncio.gather(*texts))


async def batching() -> tuple[list[Row], list[Claim]]:
    """Requests a second of a model with a fixed cost for each batch."""
    device = asyncio.Lock()

    async def run(items: Sequence[int]) -> Sequence[int]:
        async with device:
            await asyncio.sleep(FIXED_COST_S)
        return items

    async def alone(item: int) -> int:
        return (await run([item]))[0]

    pairs: list[tuple[float, float]] = []
    for _ in range(3):
        batcher = Batcher[int, int](run, BatcherOptions(max_items=STREAMS))
        unbatched = await _requests(alone, REQUESTS // 8)
        pairs.append((unbatched, await _requests(batcher.submit, REQUESTS)))
        await batcher.close()
    rows = [
        Row("fixed cost, unbatched", "rate", median(one for one, _ in pairs), "requests/s"),
        Row("fixed cost, batched", "rate", median(many for _, many in pairs), "requests/s"),
    ]
    claim = (
        f"batching, {STREAMS} callers, {FIXED_COST_S * 1000:g} ms a batch: requests/s by unbatched"
    )
    return rows, [Claim(claim, 5, median(many / one for one, many in pairs))]


async def _requests(call: Callable[[int], Awaitable[int]], many: int) -> float:
    """Requests a second of so many callers, each of which waits for its answer."""

    async def caller() -> None:
        for number in range(many // STREAMS):
            await call(number)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(STREAMS)))
    return many // STREAMS * STREAMS / (time.perf_counter() - began)


async def leaving() -> tuple[list[Row], list[Claim]]:
    """Memory that streams keep whose callers left."""
    options = Options(grpc=None, http=None, link=("link+tcp://127.0.0.1:0",))
    async with (
        Server(Inference("embedded:"), options) as server,
        connect(server.link_addresses[0]) as plane,
    ):
        client = InferenceClient(plane)
        await _leave(client, LEFT // 2)
        before = _memory_mb()
        began = time.perf_counter()
        await _leave(client, LEFT)
        rate = LEFT / (time.perf_counter() - began)
        grown = _memory_mb() - before
        still = server.dispatcher.open_calls
    rows = [
        Row("streams that were left", "rate", rate, "streams/s"),
        Row("streams that were left", "memory", before, "MB at first"),
        Row("streams that were left", "growth", grown, "MB"),
    ]
    return rows, [
        Claim(f"{LEFT} streams that were left: MB of memory kept", MAX_GROWTH_MB, grown, True),
        Claim(f"{LEFT} streams that were left: calls still open", 0, still, True),
    ]


async def _leave(client: InferenceClient, many: int) -> None:
    request = GenerateRequest(
        prompt="The ", sampling=SamplingParameters(max_tokens=2000, temperature=2.0)
    )

    async def one() -> None:
        answers: Any = client.generate(request)
        async with aclosing(answers):
            await anext(answers)

    for _ in range(many // AT_ONCE):
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    await asyncio.sleep(0.5)


def _memory_mb() -> float:
    """What this process has in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    """Measure and print."""
    rows: list[Row] = []
    claims: list[Claim] = []
    for measure in (embedded, batching, leaving):
        more_rows, more_claims = uvloop.run(measure())
        rows += more_rows
        claims += more_claims
    packages: tuple[str, ...] = PACKAGES
    try:
        import backends_triton
    except ModuleNotFoundError as missing:
        print(f"skipped, no Triton here: {missing.name} is not installed; it is for `make install`")
    else:
        more_rows, more_claims = backends_triton.through_triton()
        rows += more_rows
        claims += more_claims
        packages = (*packages, "grpcio", "tritonclient")
    print_report("backends", rows, claims, packages)


if __name__ == "__main__":
    main()
