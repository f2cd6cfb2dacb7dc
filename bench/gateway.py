"""The gateway: what it adds to a request, over asking the worker itself.

The worker (the toy models of `embedded:`), the orchestrator and two gateways, with keys, limits
and an audit log, are processes of their own. The same request goes to the worker and through
a gateway, in turn, over one connection to the HTTP door of each; their medians are compared.

    python bench/gateway.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop
from report import Claim, Row, print_report

from protoplane_components.gateway import Gateway, GatewaySettings
from protoplane_components.inference import Inference
from protoplane_components.orchestrator import orchestrator
from protoplane_server import Server, serve
from protoplane_server.component import Component

FULL = "--full" in sys.argv
CALLS = 2_000 if FULL else 320
REPEATS = 8
TOKENS = 8
_WARM = 20
KEY = "sk-bench-0123456789abcdef"


def serve_part(part: str, engine: str, folder: str, upstream: str) -> None:
    """The process of a part; it says where its HTTP door is."""
    settings = GatewaySettings(
        upstream=upstream,
        api_keys={"bench": KEY},
        requests="100000000/hour",
        tokens="100000000/hour",
        audit=str(Path(folder) / "audit.log"),
    )
    services: dict[str, Component] = {
        "worker": lambda: Inference("embedded:"),
        "orchestrator": orchestrator,
        "gateway": lambda: Gateway(settings),
    }

    def tell(server: Server) -> None:
        print(server.http_url, flush=True)

    serve(
        services[part],
        on_ready=tell,
        grpc=None,
        http="127.0.0.1:0",
        link=(f"link+unix:{folder}/{part}.sock",),
        engine=engine,
    )


@asynccontextmanager
async def running(part: str, engine: str, folder: str, upstream: str = "") -> AsyncGenerator[str]:
    """A process; gives where its HTTP door is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", part, engine, folder, upstream, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Connection]:
    """A connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Connection:
    """HTTP/1.1 with nothing around it: a library's own time would hide what is measured."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def post(self, path: str, document: object, headers: Mapping[str, str]) -> bytes:
        """Send JSON and read the whole answer."""
        body = json.dumps(document).encode()
        head = [f"POST {path} HTTP/1.1", "host: bench", "content-type: application/json"]
        head += [f"content-length: {len(body)}", f"authorization: Bearer {KEY}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        assert b" 200 " in status, status + await self.reader.read(2000)
        fields = dict(line.split(b": ", 1) for line in lines if line)
        if b"content-length" in fields:
            return await self.reader.readexactly(int(fields[b"content-length"]))
        found = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            found += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A request, as the worker takes it and as the gateway does."""

    name: str
    direct: tuple[str, object, dict[str, str]]
    through: tuple[str, object, dict[str, str]]
    claimed: bool = False


_SAMPLING = {"maxTokens": TOKENS, "seed": "1", "temperature": 0}
_STREAM = {"accept": "text/event-stream"}
_GENERATE = ("/inference/v1/models/char-gru:generate", {"prompt": "The ", "sampling": _SAMPLING})
_EMBED = "/inference/v1/models/lexical:embed"
_OPENAI = {"model": "char-gru", "prompt": "The ", "max_tokens": TOKENS, "seed": 1, "temperature": 0}
KINDS = (
    Kind(
        f"{TOKENS} tokens streamed, OpenAI",
        (*_GENERATE, _STREAM),
        ("/v1/completions", {**_OPENAI, "stream": True}, {}),
        claimed=True,
    ),
    Kind(
        f"{TOKENS} tokens at once, OpenAI",
        (*_GENERATE, {}),
        ("/v1/completions", _OPENAI, {}),
        claimed=True,
    ),
    Kind(
        f"{TOKENS} tokens streamed, /infer",
        (*_GENERATE, _STREAM),
        ("/infer", {"model": "char-gru", "text": "The ", "sampling": _SAMPLING}, _STREAM),
    ),
    Kind(
        "a vector, /embed",
        (_EMBED, {"texts": ["a plane"]}, {}),
        ("/embed", {"model": "lexical", "texts": ["a plane"]}, {}),
    ),
)


async def _timed(connection: Connection, asked: tuple[str, object, dict[str, str]]) -> float:
    path, document, headers = asked
    began = time.perf_counter()
    await connection.post(path, document, headers)
    return time.perf_counter() - began


async def compare(kind: Kind, worker: str, gateway: str, count: int) -> tuple[float, float]:
    """Median milliseconds of the request at the worker, and through the gateway."""
    direct: list[float] = []
    through: list[float] = []
    async with connected(worker) as one, connected(gateway) as other:
        for _ in range(count + _WARM):
            direct.append(await _timed(one, kind.direct))
            through.append(await _timed(other, kind.through))
    return 1000 * median(direct[_WARM:]), 1000 * median(through[_WARM:])


async def ways(stack: AsyncExitStack, folder: str) -> dict[str, tuple[str, str]]:
    """The worker, and the gateways to it: past the orchestrator, and through it."""
    engine = f"local:{folder}/engine"
    worker = await stack.enter_async_context(running("worker", engine, folder))
    await stack.enter_async_context(running("orchestrator", engine, folder))
    found: dict[str, tuple[str, str]] = {}
    for name, upstream in (
        ("gateway", "protoplane/inference"),
        ("gateway and orchestrator", "protoplane/orchestrator"),
    ):
        place = stack.enter_context(TemporaryDirectory())
        gateway = await stack.enter_async_context(running("gateway", engine, place, upstream))
        found[name] = worker, gateway
    return found


async def measure() -> tuple[list[Row], list[Claim]]:
    """All kinds of requests, all ways, in rounds: a bad moment spoils one of them only."""
    found: dict[tuple[Kind, str], list[tuple[float, float]]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        gateways = await ways(stack, folder)
        for _ in range(REPEATS):
            for way, (worker, gateway) in gateways.items():
                for kind in KINDS:
                    pair = await compare(kind, worker, gateway, CALLS // REPEATS)
                    found[kind, way].append(pair)
    rows: list[Row] = []
    claims: list[Claim] = []
    for (kind, way), pairs in found.items():
        # Each at its quietest: what is subtracted must not be another's bad moment.
        direct, through = (min(each) for each in zip(*pairs, strict=True))
        name = f"{kind.name}: {way}"
        rows += [
            Row(name, "worker alone, median", direct, "ms"),
            Row(name, "added, median", through - direct, "ms"),
        ]
        if kind.claimed:
            claims.append(Claim(f"added to {name}, ms", 2.0, through - direct, at_most=True))
    return rows, claims


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["serve"]:
        serve_part(*sys.argv[2:6])
        return
    rows, claims = uvloop.run(measure())
    print_report("gateway", rows, claims, ("uvloop", "uvicorn"))


if __name__ == "__main__":
    main()
