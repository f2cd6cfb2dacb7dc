"""Requests that Triton gets as they came, by both gRPC services, beside the ordinary way."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from tests.component_suite import component_options
from tests.server.backends.backend_suite import eventually
from tests.server.backends.test_triton import VALUES
from tests.triton_server import MODELS, TritonServer, triton_or_skip

from protoplane.inference.v1 import DataType, InferenceClient, InferRequest, InferResponse
from protoplane.inference.v1.inference_pb2 import InferRequest as InferRequestPb
from protoplane.inference.v1.inference_pb2 import InferResponse as InferResponsePb
from protoplane_base import Code, Context, PlaneError
from protoplane_client import connect
from protoplane_components.inference import Inference
from protoplane_server import Server
from protoplane_server.backends.interface import ModelSource
from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.backends.triton.backend import TritonBackend
from protoplane_server.backends.triton.settings import TritonSettings
from protoplane_server.kserve.schema import messages

pytestmark = pytest.mark.anyio

PATHS = {
    "ours": "/protoplane.inference.v1.InferenceService/Infer",
    "kserve": "/inference.GRPCInferenceService/ModelInfer",
}


class Noted(TritonBackend):
    """Counts the requests that come the ordinary way.

    Args:
        url: Of the Triton.
        relays: Whether others may come another way.
    """

    def __init__(self, url: str, *, relays: bool = True) -> None:
        super().__init__(TritonSettings.parse(url))
        self.ordinary = 0
        self._relays = relays

    def relay(self) -> Any:
        return super().relay() if self._relays else None

    async def infer(self, *arguments: Any, **options: Any) -> Sequence[Tensor]:
        self.ordinary += 1
        return await super().infer(*arguments, **options)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, in words of both services."""

    model: str
    inputs: Sequence[tuple[str, str, Sequence[int], bytes]] = ()
    version: str = ""
    outputs: Sequence[str] = ()
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    def message(self, way: str) -> Any:
        """The message of one of them."""
        if way == "ours":
            request = InferRequestPb(
                model=self.model, version=self.version, outputs=self.outputs, **self.more
            )
            for name, datatype, shape, contents in self.inputs:
                number = int(DataType[f"DATA_TYPE_{datatype}"])
                request.inputs.add(name=name, datatype=number, shape=shape, contents=contents)
            return request
        asked: Any = messages.ModelInferRequest(
            model_name=self.model, model_version=self.version, **self.more
        )
        for name, datatype, shape, contents in self.inputs:
            asked.inputs.add(name=name, datatype=datatype, shape=shape)
            asked.raw_input_contents.append(contents)
        for name in self.outputs:
            asked.outputs.add(name=name)
        return asked


class Door:
    """The gRPC door of a component before a Triton."""

    def __init__(self, backend: Noted, address: str) -> None:
        self.backend = backend
        self.address = address
        self._channel: Any = grpc.aio.insecure_channel(address)

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close()

    async def ask(self, way: str, request: Any, **options: Any) -> Any:
        """The answer to a message, or to bytes, as a message."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        options.setdefault("timeout", 30)
        answer = await self._channel.unary_unary(PATHS[way])(data, **options)
        made: Any = InferResponsePb if way == "ours" else messages.ModelInferResponse
        return made.FromString(answer)

    async def outcome(self, way: str, request: Any, **options: Any) -> tuple[object, ...]:
        """The answer, or the error with all that it says."""
        try:
            return ("answer", await self.ask(way, request, **options))
        except grpc.aio.AioRpcError as error:
            said = dict(error.trailing_metadata() or ())
            return (error.code(), error.details(), said.get("grpc-status-details-bin"))


@asynccontextmanager
async def door(url: str, *, relays: bool = True, **options: Any) -> AsyncGenerator[Door]:
    backend = Noted(url, relays=relays)
    async with Server(Inference(backend), component_options(grpc="127.0.0.1:0", **options)) as each:
        assert each.grpc_address is not None
        opened = Door(backend, each.grpc_address)
        try:
            yield opened
        finally:
            await opened.close()


@pytest.fixture
async def doors(triton: TritonServer) -> Any:
    """One that relays, and one that does not."""
    triton.load("add", "echo", "fixed", "request", "running_sum", "slow")
    async with door(triton.url) as relaying, door(triton.url, relays=False) as plain:
        yield relaying, plain


Doors = tuple[Door, Door]


def floats(*values: float) -> bytes:
    return np.array(values, np.float32).tobytes()


A = ("A", "FP32", (1, 2), floats(1, 2))
B = ("B", "FP32", (1, 2), floats(10, 20))
ADD = Ask("add", (A, B))


@pytest.mark.parametrize("way", PATHS)
async def test_answers_are_those_of_the_ordinary_way(doors: Doors, way: str) -> None:
    relaying, plain = doors
    asks = [ADD, replace(ADD, outputs=("SUM",)), replace(ADD, version="1")]
    asks.append(replace(ADD, inputs=(B, A)))
    asks.append(Ask("fixed", [("X", "FP32", (2, 20_000), bytes(160_000))]))
    asks.append(replace(asks[-1], outputs=("FIRST", "DOUBLE")))
    for datatype in Datatype:
        values = VALUES.get(datatype)
        if values is None:
            limits = np.iinfo(datatype.dtype)
            values = np.array([[limits.min, limits.max, 1]], datatype.dtype)
        sent = Tensor.of(datatype.value, values, datatype)
        given = (datatype.value, datatype.value, sent.shape, sent.pack())
        asks.append(Ask("echo", [given], outputs=[f"{datatype}_BACK"]))
        asks.append(Ask("echo", [given]))
    for ask in asks:
        expected = await plain.ask(way, ask.message(way))
        for _ in range(2):
            assert await relaying.ask(way, ask.message(way)) == expected
        before = relaying.backend.ordinary
        assert await relaying.ask(way, ask.message(way)) == expected
        # All but byte strings were passed on, once the model of such a version was known.
        ordinary = ask.inputs[0][1] == "BYTES"
        assert relaying.backend.ordinary - before == ordinary, ask


async def test_what_comes_again_is_looked_at_again(doors: Doors) -> None:
    relaying, _ = doors
    rng = np.random.default_rng(1)
    for way in PATHS:
        for rows in (1, 3, 1, 32, 3):
            a, b = rng.normal(size=(2, rows, 5)).astype(np.float32)
            tensors = [(n, "FP32", (rows, 5), v.tobytes()) for n, v in (("A", a), ("B", b))]
            answer = await relaying.ask(way, Ask("add", tensors).message(way))
            [output] = answer.outputs
            raw = output.contents if way == "ours" else answer.raw_output_contents[0]
            assert raw == (a + b).tobytes()
            assert list(output.shape) == [rows, 5]
            # The same lengths, in another shape, which does not fit.
            flat = [(n, "FP32", (rows * 5,), c) for n, _, _, c in tensors]
            code, *_ = await relaying.outcome(way, Ask("add", flat).message(way))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert relaying.backend.ordinary == 10


ROW33 = bytes(33 * 4)
FAULTS: dict[str, Ask] = {
    "an unknown model": replace(ADD, model="nobody"),
    "no model": replace(ADD, model=""),
    "an unknown version": replace(ADD, version="7"),
    "no inputs": Ask("add"),
    "a wrong name": replace(ADD, inputs=(A, ("C", *B[1:]))),
    "one that is missing": replace(ADD, inputs=(A,)),
    "one that comes twice": replace(ADD, inputs=(A, B, A)),
    "a wrong datatype": replace(ADD, inputs=(A, ("B", "INT32", *B[2:]))),
    "a wrong rank": replace(ADD, inputs=(A, ("B", "FP32", (2,), B[3]))),
    "too few elements": replace(ADD, inputs=(A, (*B[:3], B[3][:-1]))),
    "a negative axis": replace(ADD, inputs=(A, ("B", "FP32", (-1, -2), B[3]))),
    "nothing in it": replace(ADD, inputs=[(n, "FP32", (0, 2), b"") for n in "AB"]),
    "a batch too large": replace(ADD, inputs=[(n, "FP32", (33, 1), ROW33) for n in "AB"]),
    "two batches": replace(ADD, inputs=(A, ("B", "FP32", (2, 1), B[3]))),
    "an unknown output": replace(ADD, outputs=("SUM", "PRODUCT")),
    "a wrong length": Ask("fixed", [("X", "FP32", (1, 3), floats(1, 2, 3))]),
    "a decoupled model": Ask("tokens", [("COUNT", "INT32", (1,), bytes(4))]),
    "no byte strings": Ask("echo", [("BYTES", "BYTES", (1, 1), b"\xff")]),
}


@pytest.mark.parametrize("way", PATHS)
async def test_faults_are_those_of_the_ordinary_way(
    doors: Doors, way: str, triton: TritonServer
) -> None:
    triton.load("tokens")
    relaying, plain = doors
    for what, ask in FAULTS.items():
        expected = await plain.outcome(way, ask.message(way))
        assert await relaying.outcome(way, ask.message(way)) == expected, what
        assert expected[0] != "answer" or what == "nothing in it"
        assert await relaying.ask(way, ADD.message(way))
    wrong = replace(ADD, inputs=(A, ("B", "INT32", *B[2:])))
    _, said, _ = await relaying.outcome(way, wrong.message(way))
    assert said == "input 'B' of add: expected FP32, got INT32"
    code, said, _ = await relaying.outcome(way, b"\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "decoded" in str(said)


async def test_what_kserve_can_ask_besides(doors: Doors) -> None:
    relaying, plain = doors

    def changed(change: Callable[[Any], object]) -> Any:
        message = ADD.message("kserve")
        change(message)
        return message

    def typed(message: Any) -> None:
        del message.raw_input_contents[:]
        for each in message.inputs:
            each.contents.fp32_contents.extend([1, 2])

    def shared(message: Any) -> None:
        message.inputs[1].parameters["shared_memory_region"].string_param = "there"

    def classes(message: Any) -> None:
        message.outputs.add(name="SUM").parameters["classification"].int64_param = 1

    def both(message: Any) -> None:
        message.inputs[0].contents.fp32_contents.append(1)

    def fewer(message: Any) -> None:
        del message.raw_input_contents[1]

    def priority(message: Any) -> None:
        message.parameters["priority"].uint64_param = 1

    def late(message: Any) -> None:
        message.parameters["timeout"].int64_param = -1

    for change in (typed, shared, classes, both, fewer, priority, late):
        expected = await plain.outcome("kserve", changed(change))
        before = relaying.backend.ordinary
        assert await relaying.outcome("kserve", changed(change)) == expected
        answered = expected[0] == "answer"
        assert answered == (change in (typed, priority))
        assert relaying.backend.ordinary - before == answered
    for name in ("", "mine"):
        answer = await relaying.ask("kserve", changed(lambda message: setattr(message, "id", name)))  # noqa: B023
        assert answer.id == name
        assert not answer.parameters
        # An id of its own would have to be given back.
        assert relaying.backend.ordinary == 2 + bool(name)


async def test_the_ordinary_way_is_for_sequences_priorities_and_large_tensors(
    triton: TritonServer,
) -> None:
    triton.load("add", "fixed", "running_sum")
    async with door(f"{triton.url}?shared_memory_min_bytes=10000") as relaying:
        assert relaying.backend.shares_memory
        value = ("VALUE", "INT32", (1, 1), np.array([2], np.int32).tobytes())
        step = {"sequence": {"id": "7", "start": True, "end": True}}
        large = Ask("fixed", [("X", "FP32", (1, 20_000), bytes(80_000))])
        wide = [(name, "FP32", (1, 2500), bytes(10_000)) for name in "AB"]
        asks = [
            Ask("running_sum", [value], more=step),
            replace(ADD, more={"priority": 1}),
            large,
            Ask("add", wide),
        ]
        for count, ask in enumerate(asks, 1):
            assert await relaying.ask("ours", ask.message("ours"))
            assert relaying.backend.ordinary == count
        for count, ask in enumerate(asks[2:], len(asks) + 1):
            assert await relaying.ask("kserve", ask.message("kserve"))
            assert relaying.backend.ordinary == count
        await relaying.ask("ours", ADD.message("ours"))
        assert relaying.backend.ordinary == len(asks) + 2


@pytest.mark.parametrize("way", PATHS)
async def test_what_a_request_is_reaches_the_model(doors: Doors, way: str) -> None:
    relaying, _ = doors
    ask = Ask("request", [("HOLD", "BOOL", (1, 1), b"\0")])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await relaying.ask(
        way, ask.message(way), metadata=(("x-request-id", "mine"), ("traceparent", trace))
    )
    identity, parameters = (
        [output.contents for output in answer.outputs]
        if way == "ours"
        else answer.raw_output_contents
    )
    assert identity[4:] == b"mine"
    assert trace.split("-")[1].encode() in parameters
    slow = Ask("slow", [("SECONDS", "FP32", (1, 1), floats(0))])
    answer = await relaying.ask(way, slow.message(way), timeout=20)
    raw = answer.outputs[0].contents if way == "ours" else answer.raw_output_contents[0]
    # gRPC rounds what it sends; without a deadline this would be 60 s.
    assert 0 < int.from_bytes(raw, "little") < 25_000_000
    assert relaying.backend.ordinary == 0


@pytest.mark.parametrize("way", PATHS)
async def test_leaving_and_deadlines_free_the_slot(doors: Doors, way: str) -> None:
    relaying, _ = doors
    backend = relaying.backend
    hang = Ask("slow", [("SECONDS", "FP32", (1, 1), floats(600))]).message(way)
    leaving = asyncio.create_task(relaying.ask(way, hang))

    def in_flight(count: int) -> Callable[[], Any]:
        async def so_many() -> bool:
            return (await backend.stats("slow")).in_flight == count

        return so_many

    await eventually(in_flight(1))
    leaving.cancel()
    await asyncio.wait([leaving])
    await eventually(in_flight(0))
    code, *_ = await relaying.outcome(way, hang, timeout=0.5)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(in_flight(0))
    quick = Ask("slow", [("SECONDS", "FP32", (1, 1), floats(0))]).message(way)
    assert await relaying.ask(way, quick)
    stats = await backend.stats("slow")
    assert (stats.succeeded, stats.failed, stats.cancelled) == (1, 0, 2)
    # Past Triton's own limit the words are its.
    slow = Ask("slow", [("SECONDS", "FP32", (1, 1), floats(0.3))]).message(way)
    outcomes = await asyncio.gather(*(relaying.outcome(way, slow) for _ in range(12)))
    refused = [each for each in outcomes if each[0] is grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert 0 < len(refused) < 12
    for _, said, details in refused:
        assert "2 requests wait for slow already; try again in" in str(said)
        assert isinstance(details, bytes)
        [detail] = Status.FromString(details).details
        assert detail.type_url.endswith("/google.rpc.RetryInfo")
    assert backend.ordinary == 0


async def test_a_model_that_was_changed_behind_its_back(
    triton: TritonServer, tmp_path: Path
) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(MODELS / "add", folder)
    loader = Noted(triton.url)
    await loader.start()
    await loader.load("changing", ModelSource(folder))
    ask = replace(ADD, model="changing")
    other = replace(ask, inputs=(A, ("C", *B[1:])))
    try:
        async with door(triton.url) as relaying:
            for way in PATHS:
                assert await relaying.ask(way, ask.message(way))
            before = relaying.backend.ordinary
            for path in (folder / "config.pbtxt", folder / "1" / "model.py"):
                text = path.read_text().replace('"B"', '"C"').replace('"AB"', '"AC"')
                path.write_text(text)
            await loader.load("changing", ModelSource(folder))
            code, *_ = await relaying.outcome("ours", ask.message("ours"))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert relaying.backend.ordinary == before
            for way in PATHS:
                assert await relaying.ask(way, other.message(way))
    finally:
        await loader.unload("changing")
        await loader.stop()


async def test_a_triton_that_is_killed_under_load_and_comes_back(tmp_path: Path) -> None:
    with triton_or_skip(tmp_path) as server:
        async with door(server.url) as relaying:
            backend = relaying.backend
            # A model that was loaded through it is there again when Triton is.
            await backend.load("add", ModelSource())
            codes: set[object] = set()
            answered = dict.fromkeys(PATHS, 0)
            stopping = asyncio.Event()

            async def call(way: str) -> None:
                while not stopping.is_set():
                    code, *_ = await relaying.outcome(way, ADD.message(way))
                    if code == "answer":
                        answered[way] += 1
                    else:
                        codes.add(code)
                        await asyncio.sleep(0.01)

            async def served() -> bool:
                return min(answered.values()) > 20

            async def away() -> bool:
                return grpc.StatusCode.UNAVAILABLE in codes

            async with asyncio.TaskGroup() as tasks:
                for way in (*PATHS, *PATHS):
                    tasks.create_task(call(way))
                await eventually(served)
                await asyncio.to_thread(server.kill)
                await eventually(away)
                await asyncio.to_thread(server.start_again)
                answered.update(dict.fromkeys(PATHS, 0))
                await eventually(served, 60)
                stopping.set()
            assert codes == {grpc.StatusCode.UNAVAILABLE}
            assert (await backend.stats("add")).in_flight == 0
            before = backend.ordinary
            for way in PATHS:
                assert await relaying.ask(way, ADD.message(way))
            assert backend.ordinary == before


async def test_other_doors_and_callers_of_this_process(triton: TritonServer) -> None:
    triton.load("add")
    request = InferRequest.from_pb(ADD.message("ours"))
    wrong = InferRequest.from_pb(replace(ADD, inputs=(("X", *A[1:]),)).message("ours"))
    async with (
        Server(
            Inference(triton.url),
            component_options(
                grpc="127.0.0.1:0",
                http="127.0.0.1:0",
                inproc="relayed",
                link=("link+tcp://127.0.0.1:0",),
            ),
        ) as server,
        connect("inproc:relayed") as here,
        connect(f"grpc://{server.grpc_address}") as there,
        connect(f"{server.http_url}") as web,
    ):
        async with connect(server.link_addresses[0]) as linked:
            answer = await InferenceClient(linked).infer(request, timeout_s=30)
            assert answer.outputs[0].contents == floats(11, 22)
        for plane in (here, there, web):
            client = InferenceClient(plane)
            answer = await client.infer(request, timeout_s=30)
            assert answer.outputs[0].contents == floats(11, 22)
            assert answer.version == "1"
            with pytest.raises(PlaneError, match="no input 'X'; expected A, B") as caught:
                await client.infer(wrong, timeout_s=30)
            assert caught.value.code is Code.INVALID_ARGUMENT
        client = InferenceClient(there)
        once = [await client.infer(request, idempotency_key="once") for _ in range(2)]
        assert once[0] == once[1]
        other = InferRequest(model="add", inputs=list(reversed(request.inputs)))
        with pytest.raises(PlaneError, match="a key stands for one request"):
            await client.infer(other, idempotency_key="once")


async def test_a_component_with_an_infer_of_its_own_is_asked(triton: TritonServer) -> None:
    triton.load("add")

    class Own(Inference):
        async def infer(self, request: InferRequest, ctx: Context) -> InferResponse:
            answer = await super().infer(request, ctx)
            answer.model = "own"
            return answer

    async with (
        Server(Own(triton.url), component_options(grpc="127.0.0.1:0")) as server,
        connect(f"grpc://{server.grpc_address}") as plane,
    ):
        for _ in range(2):
            request = InferRequest.from_pb(ADD.message("ours"))
            assert (await InferenceClient(plane).infer(request, timeout_s=30)).model == "own"
