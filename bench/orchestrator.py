"""What the orchestrator adds to a call: over calling the worker itself, in the same run.

- One request at a time, a text of one message and an embedding: the median through the orchestrator
  less the median of the worker, by round-robin and by the KV router.
- A text of many messages: what each message costs more.
- Many requests at once: requests a second through one orchestrator process.

Workers, router, orchestrators and the caller are processes of their own, with links over unix
sockets. The worker does no work of its own: what it would take is in both figures.

    python bench/orchestrator.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory

import uvloop
from report import Claim, Row, print_report

from protoplane.inference.v1 import (
    Capability,
    Embedding,
    EmbedRequest,
    EmbedResponse,
    FinishReason,
    GenerateRequest,
    GenerateResponse,
    InferenceClient,
    InferenceService,
    Usage,
)
from protoplane.orchestrator.v1 import ListWorkersRequest, OrchestratorClient
from protoplane.router.v1 import KvRouterClient, Worker, WorkersRequest
from protoplane_base import Service
from protoplane_client import connect
from protoplane_components.inference.announcing import announce
from protoplane_components.kv_router import KvRouter, Router
from protoplane_components.kv_router.worker import KvWorker
from protoplane_components.orchestrator import Orchestrator, OrchestratorSettings
from protoplane_server import Context, Host, Server, serve

FULL = "--full" in sys.argv
CALLS = 2_000 if FULL else 500
ROUNDS = 9 if FULL else 5
AT_ONCE = 64
RATED = 20_000 if FULL else 5_000
MESSAGES = 500
PROMPT = "what is the weather like today? " * 8


class Echo(InferenceService):
    """A worker that takes no time: as many messages as there are tokens to write."""

    def hosted(self, host: Host) -> None:
        """Say what it has."""
        can = frozenset({Capability.CAPABILITY_GENERATE, Capability.CAPABILITY_EMBED})
        host.metadata.update(announce({"m": can}, 256))

    async def generate(
        self, request: GenerateRequest, ctx: Context
    ) -> AsyncIterator[GenerateResponse]:
        """Write."""
        last = request.priority or 1
        for index in range(last - 1):
            yield GenerateResponse(text="a", token_ids=[97], index=index)
        yield GenerateResponse(
            text="a",
            token_ids=[97],
            index=last - 1,
            finish_reason=FinishReason.FINISH_REASON_LENGTH,
            usage=Usage(prompt_tokens=len(PROMPT), completion_tokens=last),
        )

    async def embed(self, request: EmbedRequest, ctx: Context) -> EmbedResponse:
        """Give a vector."""
        return EmbedResponse(embeddings=[Embedding(values=[0.5] * 64)], model="m")


def component(part: str) -> Sequence[Service]:
    """What the process of a part serves."""
    if part.startswith("worker"):
        return Echo(), KvWorker(Worker(model="m", block_size=16))
    if part == "router":
        tokenizer = str.encode
        return (KvRouter(Router(block_size=16), tokenizer=tokenizer, snapshot_interval_s=None),)
    made = Orchestrator(OrchestratorSettings(policy=part, router_timeout_s=1.0))
    return made.overseer, made


@asynccontextmanager
async def running(part: str, engine: str, folder: str) -> AsyncGenerator[str]:
    """The process of a part; gives its address."""
    process: Process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", part, engine, folder, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


def serve_part(part: str, engine: str, folder: str) -> None:
    """The process of a part: it says where it is."""

    def tell(server: Server) -> None:
        print(server.link_addresses[0], flush=True)

    serve(
        lambda: component(part),
        on_ready=tell,
        grpc=None,
        http=None,
        link=(f"link+unix:{folder}/{part}.sock",),
        engine=engine,
    )


Call = Callable[[InferenceClient], Awaitable[object]]


async def text(client: InferenceClient, messages: int = 1) -> None:
    """A text; the worker reads from the priority how long it is to be."""
    request = GenerateRequest(model="m", prompt=PROMPT, priority=messages)
    async for _ in client.generate(request):
        pass


async def embed(client: InferenceClient) -> None:
    """A vector."""
    await client.embed(EmbedRequest(model="m", texts=["a"]))


async def medians(clients: Sequence[InferenceClient], call: Call, calls: int) -> list[float]:
    """Median microseconds of a call by each client; they take turns, so all see the same noise."""
    took: list[list[float]] = [[] for _ in clients]
    for _ in range(calls):
        for client, times in zip(clients, took, strict=True):
            began = time.perf_counter()
            await call(client)
            times.append(time.perf_counter() - began)
    return [1e6 * statistics.median(times) for times in took]


async def rate(client: InferenceClient) -> float:
    """Texts a second, many at once."""
    numbers = iter(range(RATED))

    async def caller() -> None:
        for _ in numbers:
            await text(client)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return RATED / (time.perf_counter() - began)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    while not await holds():  # noqa: ASYNC110  # it is asked
        await asyncio.sleep(0.05)


async def until_known(router: str, orchestrators: Sequence[str]) -> None:
    """Wait until the router and the orchestrators know both workers."""
    async with connect(router) as plane:
        workers = KvRouterClient(plane)

        async def known() -> bool:
            return len((await workers.workers(WorkersRequest())).workers) == 2

        await until(known)
    for address in orchestrators:
        async with connect(address) as plane:
            overseer = OrchestratorClient(plane)

            async def listed(overseer: OrchestratorClient = overseer) -> bool:
                return len((await overseer.list_workers(ListWorkersRequest())).workers) == 2

            await until(listed)


async def measure(folder: str) -> tuple[list[Row], list[Claim]]:
    """All of it."""
    engine = f"local:{folder}/engine"
    names = ("round-robin", "kv")
    rows: list[Row] = []
    claims: list[Claim] = []
    async with AsyncExitStack() as stack:
        parts = ("worker-1", "worker-2", "router", *names)
        address = {
            part: await stack.enter_async_context(running(part, engine, folder)) for part in parts
        }
        await until_known(address["router"], [address[name] for name in names])
        clients = [
            InferenceClient(await stack.enter_async_context(connect(address[part])))
            for part in ("worker-1", *names)
        ]
        for what, call in (("a text", text), ("an embedding", embed)):
            await medians(clients, call, 100)
            rounds = [await medians(clients, call, CALLS) for _ in range(ROUNDS)]
            rows.append(
                Row(f"{what}: the worker itself", "median", min(r[0] for r in rounds), "µs")
            )
            for at, name in enumerate(names, start=1):
                whole_us = min(r[at] for r in rounds)
                added_us = min(r[at] - r[0] for r in rounds)
                rows.append(Row(f"{what}: by {name}", "median", whole_us, "µs"))
                rows.append(Row(f"{what}: by {name}", "added", added_us, "µs"))
                claims.append(
                    Claim(
                        f"{what} by {name}: ms added at the median",
                        1.0,
                        added_us / 1000,
                        at_most=True,
                    )
                )

        async def long(client: InferenceClient) -> None:
            await text(client, MESSAGES)

        rounds = [await medians(clients, long, 5) for _ in range(ROUNDS)]
        added_us = min((r[1] - r[0]) / MESSAGES for r in rounds)
        rows.append(Row(f"a text of {MESSAGES} messages", "added to each", added_us, "µs"))
        for name, client in zip(("the worker itself", *names), clients, strict=True):
            best = max([await rate(client) for _ in range(3)])
            rows.append(Row(f"{AT_ONCE} texts at once: {name}", "rate", best, "requests/s"))
        listed = await OrchestratorClient(
            await stack.enter_async_context(connect(address["kv"]))
        ).list_workers(ListWorkersRequest())
        assert listed.counts is not None
        placed = listed.counts.routed / (listed.counts.routed + listed.counts.unrouted)
        rows.append(Row("texts by kv", "placed by the router", 100 * placed, "%"))
        claims.append(Claim("texts by kv: % placed by the router", 99.0, 100 * placed))
    return rows, claims


async def main() -> None:
    """Measure and report."""
    with TemporaryDirectory() as folder:
        rows, claims = await measure(folder)
    print_report("orchestrator", rows, claims, ["pydantic", "uvloop"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve_part(*sys.argv[2:])
    else:
        uvloop.run(main())
