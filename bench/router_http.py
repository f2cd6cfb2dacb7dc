"""HTTP select of the KV router against that of NVIDIA Dynamo's selection service.

Both serve HTTP in processes of their own and know 32 workers, whose caches they heard of by events:
all workers have the system prompt, six of them more of each conversation. A request has 2,048
tokens as JSON. They take turns, and the best of some short windows counts: others use the machine,
too. The load comes from plain sockets, see `http_load`.

    python bench/router_http.py [--full]

``turns`` are conversations of which the router was asked before, with one more block each time;
``unseen`` are prompts of which it knows the system prompt, and the rest is new. Dynamo's service is
told to log errors only: as it comes it logs a line for each choice, and is slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from http_load import Load, load, post
from report import Claim, Row, print_report
from router import dynamo_python

WORKERS = 32
# Of ours these are ranks of a few workers: servers take time also while nobody calls them.
RANKS = 8
BLOCK_SIZE = 16
TOKENS = 2048
SYSTEM = 256
CONVERSATIONS = 16
TURNS = 8
# More than anybody may remember.
UNSEEN = 6000
CONCURRENCIES = (1, 32)
DEPTHS = [SYSTEM // BLOCK_SIZE] * 26 + [32, 32, 64, 64, 96, 112]


def conversations() -> list[list[int]]:
    """Prompts with one beginning."""
    chance = random.Random(3)
    system = [chance.randrange(1 << 17) for _ in range(SYSTEM)]
    return [
        system + [chance.randrange(1 << 17) for _ in range(TOKENS - SYSTEM)]
        for _ in range(CONVERSATIONS)
    ]


def asked(workload: str) -> list[list[int]]:
    """Prompts as they are asked for in turn."""
    chance = np.random.default_rng(4)

    def fresh(count: int) -> list[int]:
        tokens: list[int] = chance.integers(1 << 17, size=count).tolist()
        return tokens

    known = conversations()
    if workload == "unseen":
        system = known[0][:SYSTEM]
        return [system + fresh(TOKENS - SYSTEM) for _ in range(UNSEEN)]
    ends = TURNS * BLOCK_SIZE
    said = [prompt[: TOKENS - ends] + fresh(ends) for prompt in known]
    # The last turn has as many tokens as are promised above, the first some less.
    first = TOKENS - ends + BLOCK_SIZE
    return [prompt[:end] for end in range(first, TOKENS + 1, BLOCK_SIZE) for prompt in said]


def held() -> Generator[tuple[int, list[int]]]:
    """Workers with the tokens that each has of each conversation."""
    for number, prompt in enumerate(conversations()):
        for worker in range(WORKERS):
            yield worker, prompt[: DEPTHS[(worker + 6 * number) % WORKERS] * BLOCK_SIZE]


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until(ready: Callable[[], bool], what: str) -> None:
    """Wait for a server.

    Raises:
        TimeoutError: It takes a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError, KeyError):
            if ready():
                return
        time.sleep(0.1)
    raise TimeoutError(f"{what} is not ready")


def call(port: int, path: str, body: object = None) -> Any:
    """The answer to one request."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        if body is None:
            connection.request("GET", path)
        else:
            kind = {"content-type": "application/json"}
            connection.request("POST", path, json.dumps(body).encode(), kind)
        return json.loads(connection.getresponse().read())


@contextlib.contextmanager
def running(command: Sequence[str], **environment: str) -> Generator[None]:
    """A process, for a while."""
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def dynamo(python: str) -> Generator[int]:
    """Dynamo's service with what it knows; gives its port."""
    import msgspec
    import zmq

    port = free_port()
    command = [python, "-m", "dynamo.select_service", "--port", str(port)]
    with running(command, DYN_LOG="error"), zmq.Context() as context, ExitStack() as stack:
        until(lambda: "ready" in call(port, "/ready"), "Dynamo")
        publishers: list[zmq.Socket[bytes]] = []
        for worker in range(WORKERS):
            publisher = stack.enter_context(context.socket(zmq.PUB))
            publisher.setsockopt(zmq.LINGER, 0)
            publisher.setsockopt(zmq.SNDHWM, 0)
            events = publisher.bind_to_random_port("tcp://127.0.0.1")
            publishers.append(publisher)
            call(
                port,
                "/workers",
                {
                    "worker_id": worker,
                    "model_name": "m",
                    "block_size": BLOCK_SIZE,
                    "endpoint": "http://127.0.0.1:9",
                    "total_kv_blocks": 100_000,
                    "max_num_batched_tokens": 8192,
                    "data_parallel_size": 1,
                    "data_parallel_start_rank": 0,
                    "kv_events_endpoints": {"0": f"tcp://127.0.0.1:{events}"},
                },
            )
        time.sleep(1)
        numbers = [0] * WORKERS
        for worker, tokens in held():
            names = [
                hash(tuple(tokens[: end + BLOCK_SIZE])) & (1 << 62) - 1
                for end in range(0, len(tokens), BLOCK_SIZE)
            ]
            event = ["BlockStored", names, None, tokens, BLOCK_SIZE, None, "GPU", None]
            batch = msgspec.msgpack.encode([time.time(), [event], 0])
            publishers[worker].send_multipart([b"", numbers[worker].to_bytes(8, "big"), batch])
            numbers[worker] += 1
        deepest = {"model_name": "m", "token_ids": conversations()[-1]}
        until(
            lambda: call(port, "/select", deepest)["overlap"]["gpu"] == DEPTHS[-1] * BLOCK_SIZE,
            "Dynamo's index",
        )
        yield port


@contextlib.contextmanager
def ours(processes: int) -> Generator[int]:
    """Our router with what it knows; gives its port."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        engine = f"local:{folder}"
        protoplane = str(Path(sys.executable).with_name("protoplane"))
        command = [
            *(protoplane, "serve", "protoplane_components.kv_router", "--http-only"),
            *("--http", str(port), "--engine", engine, "--workers", str(processes)),
            *("--stats-interval", "0"),
        ]
        workers = [sys.executable, __file__, "--workers", engine]
        deepest = {"prompt": {"tokens": {"ids": conversations()[-1]}}}

        def warm() -> bool:
            found = call(port, "/router/v1/query", deepest)["overlaps"]
            return len(found) == WORKERS and found[0]["deviceBlocks"] == DEPTHS[-1]

        with running(command), running(workers):
            for _ in range(8 * processes):
                # A new connection may come to another process.
                until(warm, "our index")
            yield port


async def serve_workers(engine: str) -> None:
    """Be the workers, until the standard input ends."""
    from protoplane.router.v1 import Worker
    from protoplane_components.kv_router.hashing import block_hashes
    from protoplane_components.kv_router.worker import KvWorker
    from protoplane_server import Options, Server

    async with contextlib.AsyncExitStack() as stack:
        workers: list[KvWorker] = []
        for number in range(WORKERS // RANKS):
            worker = KvWorker(Worker(block_size=BLOCK_SIZE, dp_size=RANKS))
            options = Options(
                grpc=None,
                http=None,
                link=("link+tcp://127.0.0.1:0",),
                engine=engine,
                name=f"bench/worker/w{number}",
                stats_interval_s=None,
            )
            await stack.enter_async_context(Server(worker, options))
            workers.append(worker)
        for number, tokens in held():
            hashes = block_hashes(tokens, BLOCK_SIZE).tolist()
            names = [hash(tuple(hashes[: at + 1])) & (1 << 63) - 1 for at in range(len(hashes))]
            workers[number // RANKS].stored(names, hashes, dp_rank=number % RANKS)
        over = asyncio.Event()
        asyncio.get_running_loop().add_reader(0, over.set)
        await over.wait()


def measure(ports: dict[str, int], rounds: int, seconds: float) -> dict[tuple[str, str, int], Load]:
    """The best of some rounds, by side, workload and concurrency."""
    best: dict[tuple[str, str, int], Load] = {}
    for workload in ("turns", "unseen"):
        prompts = asked(workload)
        bodies = {
            True: [json.dumps({"model_name": "m", "token_ids": ids}) for ids in prompts],
            False: [
                json.dumps({"request": {"prompt": {"tokens": {"ids": ids}}, "omitScores": True}})
                for ids in prompts
            ],
        }
        paths = {True: "/select", False: "/router/v1/select"}
        made = {
            peer: [post(paths[peer], body.encode()) for body in texts]
            for peer, texts in bodies.items()
        }
        # Each goes on where it was, so that what is new stays new.
        requests = {side: cycle(made[side == "Dynamo"]) for side in ports}
        for _ in range(rounds):
            for side, port in ports.items():
                for concurrency in CONCURRENCIES:
                    got = load(port, requests[side], concurrency, seconds)
                    key = (side, workload, concurrency)
                    if key not in best or got.rate > best[key].rate:
                        best[key] = got
    return best


def main() -> None:
    """Start both, load them in turn, and print."""
    full = "--full" in sys.argv
    python, reason = dynamo_python()
    if python is None:
        print(f"No figures of Dynamo: {reason}")
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        if python is not None:
            ports["Dynamo"] = stack.enter_context(dynamo(python))
        ports["one process"] = stack.enter_context(ours(1))
        ports["two processes"] = stack.enter_context(ours(2))
        best = measure(ports, 8 if full else 3, 2.0 if full else 0.7)
    rows: list[Row] = []
    for (side, workload, concurrency), got in best.items():
        name = f"{side}, {workload}, {concurrency} at once"
        rows.append(Row(name, "rate", got.rate, "/s"))
        rows.append(Row(name, "p50", got.p50_us, "µs"))
        rows.append(Row(name, "p95", got.p95_us, "µs"))
    claims: list[Claim] = []
    for workload in ("turns", "unseen"):
        for side, concurrency in (("one process", 1), ("two processes", 32)):
            peer = best.get(("Dynamo", workload, concurrency))
            ratio = best[side, workload, concurrency].rate / peer.rate if peer else float("nan")
            claims.append(
                Claim(f"{workload}, {concurrency} at once, {side}, times Dynamo", 1.5, ratio)
            )
    print_report("router_http", rows, claims, ("uvicorn", "uvloop", "pydantic"))


if __name__ == "__main__":
    if "--workers" in sys.argv:
        asyncio.run(serve_workers(sys.argv[-1]))
    else:
        main()
