"""Triton behind Protoplane's gRPC door, and Triton alone by its own asyncio client, in one run.

32 callers ask one after the other for as long as a round takes. The door stands in a process of its
own, as a component does; the callers are in this one, in both cases. Two models: ``forward`` takes
20 ms at a batch without using the processor, as a small network on a GPU does, and ``add`` nearly
nothing, which leaves what the calls themselves cost. A third way stands beside the two: a bare
`grpc.aio` program that hands the bytes of each call on, which is what no door in Python goes below.
From where on a model is slow enough for the door, ``forward`` tells at 10, 5 and 2 ms.

Then 200 callers of the door read streams of a decoupled model, and all leave at once: what Triton's
own metrics say runs or waits a little later is counted. bench/backends.py runs all of this, too.

    python bench/backends_triton.py [--full] [--json]
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio
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
from protoplane_server import Server, serve  # noqa: E402

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
STEPS_MS = (10, 5, 2)
"""What ``forward`` takes besides its 20 ms."""
Call = Callable[[], Awaitable[object]]


def through_triton() -> tuple[list[Row], list[Claim]]:
    """Requests a second, through the door and without it; and streams whose callers left."""
    nan = float("nan")
    begun, left = nan, nan
    try:
        with tempfile.TemporaryDirectory() as folder, triton_server(Path(folder)) as triton:
            triton.load("forward", "add", "tokens")
            with (
                beside("--serve", triton.url) as address,
                beside("--proxy", triton.address) as bare,
            ):
                rates = uvloop.run(_compare(triton.address, bare, address))
                by_step = {
                    step_ms: uvloop.run(_at_step(triton, address, step_ms)) for step_ms in STEPS_MS
                }
                begun, left = uvloop.run(_leave(triton, address))
    except TritonMissingError as missing:
        print(f"skipped, no Triton here: {missing}")
        rates = {model: Rates(*[nan] * 7) for model in ("forward", "add")}
        by_step = dict.fromkeys(STEPS_MS, (nan, nan))
    rows: list[Row] = []
    for model, rate in rates.items():
        rows += [
            Row(f"tritonclient.grpc.aio, {model}, {CALLERS} callers", "rate", rate.direct, "/s"),
            Row(f"a bare grpc.aio proxy, {model}, {CALLERS} callers", "rate", rate.bare, "/s"),
            Row(f"tritonclient to the door, {model}, {CALLERS} callers", "rate", rate.kserve, "/s"),
            Row(f"Protoplane to the door, {model}, {CALLERS} callers", "rate", rate.ours, "/s"),
        ]
    plain = rates["add"]
    rows += [
        Row("Protoplane to the door, by direct, add", "ratio", plain.to_direct, "x"),
        Row("tritonclient to the door, by direct, add", "ratio", plain.kserve_to_direct, "x"),
        Row("tritonclient to the door, by a bare proxy, add", "ratio", plain.kserve_to_bare, "x"),
    ]
    for step_ms, (direct, ratio) in by_step.items():
        name = f"{step_ms} ms at a batch, {CALLERS} callers"
        rows += [
            Row(f"tritonclient.grpc.aio, {name}", "rate", direct, "/s"),
            Row(f"Protoplane to the door, by direct, {name}", "ratio", ratio, "x"),
        ]
    rows.append(
        Row("streams in Triton, by its metrics, before they are left", "running", begun, "")
    )
    claim = "the gRPC door to Triton, of tritonclient's own rate, a model of 20 ms, 32 callers"
    return rows, [
        Claim(claim, REQUIRED, rates["forward"].to_direct),
        Claim(f"{LEFT} streams begun in Triton through the door, by its metrics", LEFT, begun),
        Claim(f"{LEFT} streams that were left: still in Triton, by its metrics", 0, left, True),
    ]


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a second, the medians of all rounds, and those of the ratios within a round."""

    direct: float
    bare: float
    kserve: float
    ours: float
    to_direct: float
    kserve_to_direct: float
    kserve_to_bare: float


@contextmanager
def beside(role: str, triton: str) -> Generator[str]:
    """A process of its own, the component or the proxy; gives the address of its gRPC door."""
    command = [sys.executable, __file__, role, triton]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, f"{role} did not start"
            yield address
        finally:
            process.terminate()
            process.wait(20)


async def _compare(triton: str, bare: str, door: str) -> dict[str, Rates]:
    client: Any = triton_aio.InferenceServerClient(triton)
    proxied: Any = triton_aio.InferenceServerClient(bare)
    kserve: Any = triton_aio.InferenceServerClient(door)
    rates: dict[str, Rates] = {}
    async with client, proxied, kserve, connect(f"grpc://{door}") as plane:
        component = InferenceClient(plane)
        for model, names in (("forward", ["X"]), ("add", ["A", "B"])):
            values = np.ones((1, WIDTH), np.float32)
            calls = [
                _direct(client, model, names, values),
                _direct(proxied, model, names, values),
                _direct(kserve, model, names, values),
                _ours(component, model, names, values),
            ]
            for call in calls:
                await _rate(call, ROUND_S / 4)
            rounds = [[await _rate(call, ROUND_S) for call in calls] for _ in range(ROUNDS)]
            direct, bare_rate, kserve_rate, ours = zip(*rounds, strict=True)
            rates[model] = Rates(
                direct=median(direct),
                bare=median(bare_rate),
                kserve=median(kserve_rate),
                ours=median(ours),
                to_direct=_ratio(ours, direct),
                kserve_to_direct=_ratio(kserve_rate, direct),
                kserve_to_bare=_ratio(kserve_rate, bare_rate),
            )
    return rates


async def _at_step(triton: TritonServer, door: str, step_ms: int) -> tuple[float, float]:
    """Requests a second without the door at a model that takes so long, and the door's ratio."""
    client: Any = triton_aio.InferenceServerClient(triton.address)
    async with client, connect(f"grpc://{door}") as plane:
        config = (await client.get_model_config("forward", as_json=True))["config"]
        config["parameters"]["STEP_MS"] = {"string_value": str(step_ms)}
        await client.load_model("forward", config=json.dumps(config))
        values = np.ones((1, WIDTH), np.float32)
        calls = [
            _direct(client, "forward", ["X"], values),
            _ours(InferenceClient(plane), "forward", ["X"], values),
        ]
        for call in calls:
            await _rate(call, ROUND_S / 4)
        rounds = [[await _rate(call, ROUND_S / 2) for call in calls] for _ in range(ROUNDS)]
        direct, ours = zip(*rounds, strict=True)
    return median(direct), _ratio(ours, direct)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return median(one / other for one, other in zip(ours, theirs, strict=True))


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


def _serve(url: str) -> None:
    def say(server: Server) -> None:
        print(server.grpc_address, flush=True)

    # As `protoplane serve` runs it, until the parent ends it or is gone itself.
    serve(
        Inference(url),
        grpc="127.0.0.1:0",
        http=None,
        engine="memory:",
        on_ready=say,
        lifeline=sys.stdin.fileno(),
    )


async def _pass_on(triton: str) -> None:
    plain: Any = grpc.aio.insecure_channel(triton)
    async with plain as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def answer(request: bytes, _: object) -> bytes:
            answered: bytes = await infer(request, timeout=30)
            return answered

        server: Any = grpc.aio.server()
        make: Any = grpc.unary_unary_rpc_method_handler
        handlers = {"ModelInfer": make(answer)}
        server.add_generic_rpc_handlers((
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),
        ))  # fmt: skip
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"127.0.0.1:{port}", flush=True)
        # Until the parent ends it, or is gone itself.
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(None)


def main() -> None:
    """Measure and print."""
    if "--serve" in sys.argv:
        _serve(sys.argv[-1])
        return
    if "--proxy" in sys.argv:
        uvloop.run(_pass_on(sys.argv[-1]))
        return
    rows, claims = through_triton()
    print_report("backends_triton", rows, claims, PACKAGES)


if __name__ == "__main__":
    main()
