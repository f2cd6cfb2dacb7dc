"""Triton behind Protoplane's gRPC door, and Triton alone by its own asyncio client, in one run.

32 callers ask one after the other for as long as a round takes. The door stands in a process of its
own, as a component does; the callers are in this one, in both cases. Two models: ``forward`` takes
20 ms at a batch without using the processor, as a small network on a GPU does, and ``add`` nearly
nothing, which leaves what the calls themselves cost.

Then 200 callers of the door read streams of a decoupled model, and all leave at once: what Triton's
own metrics say runs or waits a little later is counted. bench/backends.py runs all of this, too.

    python bench/backends_triton.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import uvloop
from report import Claim, Row, print_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.triton_server import TritonMissingError, TritonServer, triton_server  # noqa: E402
from tritonclient.grpc import aio as triton_aio  # noqa: E402

from protoplane.inference.v1 import DataType, InferenceClient, InferRequest, Tensor  # noqa: E402
from protoplane_client import connect  # noqa: E402
from protoplane_components.inference import Inference  # noqa: E402
from protoplane_server import Options, Server  # noqa: E402

PACKAGES = ("grpcio", "numpy", "tritonclient", "uvloop")
CALLERS = 32
FULL = "--full" in sys.argv
ROUNDS = 9 if FULL else 5
ROUND_S = 3.0 if FULL else 1.0
REQUIRED = 0.8
LEFT = 200
# Leaving is no matter of timing here: what runs after this long would go on running.
LEFT_S = 10.0
WIDTH = 256
Call = Callable[[], Awaitable[object]]


def through_triton() -> tuple[list[Row], list[Claim]]:
    """Requests a second, through the door and without it; and streams whose callers left."""
    nan = float("nan")
    begun, left = nan, nan
    try:
        with tempfile.TemporaryDirectory() as folder, triton_server(Path(folder)) as triton:
            triton.load("forward", "add", "tokens")
            with door(triton.url) as address:
                rates = uvloop.run(_compare(triton.address, address))
                begun, left = uvloop.run(_leave(triton, address))
    except TritonMissingError as missing:
        print(f"skipped, no Triton here: {missing}")
        rates = {"forward": (nan, nan, nan), "add": (nan, nan, nan)}
    rows: list[Row] = []
    for model, (direct, ours, _) in rates.items():
        rows += [
            Row(f"tritonclient.grpc.aio, {model}, {CALLERS} callers", "rate", direct, "/s"),
            Row(f"Protoplane's gRPC door, {model}, {CALLERS} callers", "rate", ours, "/s"),
        ]
    rows.append(Row("door to direct, add", "ratio", rates["add"][2], "x"))
    rows.append(
        Row("streams in Triton, by its metrics, before they are left", "running", begun, "")
    )
    claim = "the gRPC door to Triton, of tritonclient's own rate, a model of 20 ms, 32 callers"
    return rows, [
        Claim(claim, REQUIRED, rates["forward"][2]),
        Claim(f"{LEFT} streams begun in Triton through the door, by its metrics", LEFT, begun),
        Claim(f"{LEFT} streams that were left: still in Triton, by its metrics", 0, left, True),
    ]


@contextmanager
def door(url: str) -> Generator[str]:
    """A process with the component; gives the address of its gRPC door."""
    command = [sys.executable, __file__, "--serve", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the component did not start"
            yield address
        finally:
            process.terminate()
            process.wait(20)


async def _compare(triton: str, door: str) -> dict[str, tuple[float, float, float]]:
    client: Any = triton_aio.InferenceServerClient(triton)
    rates: dict[str, tuple[float, float, float]] = {}
    async with client, connect(f"grpc://{door}") as plane:
        component = InferenceClient(plane)
        for model, names in (("forward", ["X"]), ("add", ["A", "B"])):
            values = np.ones((1, WIDTH), np.float32)
            direct = _direct(client, model, names, values)
            ours = _ours(component, model, names, values)
            await _rate(direct, ROUND_S / 4)
            await _rate(ours, ROUND_S / 4)
            pairs = [
                (await _rate(direct, ROUND_S), await _rate(ours, ROUND_S)) for _ in range(ROUNDS)
            ]
            rates[model] = (
                median(pair[0] for pair in pairs),
                median(pair[1] for pair in pairs),
                median(pair[1] / pair[0] for pair in pairs),
            )
    return rates


def _direct(client: Any, model: str, names: list[str], values: Any) -> Call:
    async def call() -> object:
        inputs: list[Any] = []
        for name in names:
            given: Any = triton_aio.InferInput(name, list(values.shape), "FP32")
            given.set_data_from_numpy(values)
            inputs.append(given)
        answer = await client.infer(model, inputs, client_timeout=30)
        read: object = answer.as_numpy(answer.get_response().outputs[0].name)
        return read

    return call


def _ours(client: InferenceClient, model: str, names: list[str], values: Any) -> Call:
    async def call() -> object:
        inputs = [
            Tensor(
                name=name,
                datatype=DataType.DATA_TYPE_FP32,
                shape=list(values.shape),
                contents=values.tobytes(),
            )
            for name in names
        ]
        answer = await client.infer(InferRequest(model=model, inputs=inputs), timeout_s=30)
        [output] = answer.outputs
        return np.frombuffer(output.contents, np.float32).reshape(output.shape)

    return call


async def _rate(call: Call, seconds: float) -> float:
    """Requests a second of all callers together."""
    done = 0
    since = time.perf_counter()
    until = since + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done / (time.perf_counter() - since)


async def _leave(triton: TritonServer, door: str) -> tuple[float, float]:
    """Streams that run in Triton before their callers leave, and after."""
    counts = [("COUNT", 1_000_000), ("DELAY_MS", 50)]
    inputs = [
        Tensor(
            name=name,
            datatype=DataType.DATA_TYPE_INT32,
            shape=[1],
            contents=np.array([value], np.int32).tobytes(),
        )
        for name, value in counts
    ]
    first = asyncio.Semaphore(0)

    async def read(component: InferenceClient) -> None:
        answers: Any = component.infer_stream(InferRequest(model="tokens", inputs=inputs))
        async with aclosing(answers):
            await anext(answers)
            first.release()
            async for _ in answers:
                pass

    async def running() -> float:
        names = ("tokens_streams", "nv_inference_pending_request_count")
        return sum([await asyncio.to_thread(triton.metric, name, "tokens") for name in names])

    async with connect(f"grpc://{door}") as plane:
        component = InferenceClient(plane)
        tasks = [asyncio.create_task(read(component)) for _ in range(LEFT)]
        try:
            async with asyncio.timeout(60):
                for _ in tasks:
                    await first.acquire()
            begun = await running()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        until = time.perf_counter() + LEFT_S
        while (left := await running()) and time.perf_counter() < until:  # noqa: ASYNC110  # a poll
            await asyncio.sleep(0.1)
    return begun, left


async def _serve(url: str) -> None:
    options = Options(grpc="127.0.0.1:0", engine="memory:")
    async with Server(Inference(url), options) as server:
        print(server.grpc_address, flush=True)
        while os.getppid() != 1:  # noqa: ASYNC110  # a parent that ends sets no event
            await asyncio.sleep(1)


def main() -> None:
    """Measure and print."""
    if "--serve" in sys.argv:
        uvloop.run(_serve(sys.argv[sys.argv.index("--serve") + 1]))
        return
    rows, claims = through_triton()
    print_report("backends_triton", rows, claims, PACKAGES)


if __name__ == "__main__":
    main()
