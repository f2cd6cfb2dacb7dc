"""The Triton backend against a real Triton: what all backends do, and tensors of every kind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from tests.server.backends.backend_suite import CTX, BackendSuite, eventually
from tests.triton_server import MODELS, TritonServer

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import (
    Backend,
    BackendContext,
    ModelSource,
    ModelState,
    SequenceStep,
)
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Datatype, Tensor
from protoplane_server.backends.triton.backend import TritonBackend

pytestmark = pytest.mark.anyio

_OF_TENSORS = frozenset({
    "test_a_model_that_there_is_not",
    "test_infer_gives_what_it_declares",
    "test_infer_gives_the_outputs_that_are_wanted",
    "test_tensors_that_a_model_does_not_take",
    "test_stream_gives_several_results",
    "test_what_a_model_cannot_do",
})  # fmt: skip


class TestTriton(BackendSuite):
    writer = "tokens"
    tensor_model = "add"
    stream_model = "tokens"

    @pytest.fixture(autouse=True)
    def served(self, request: pytest.FixtureRequest, triton: TritonServer) -> None:
        if request.node.originalname not in _OF_TENSORS:
            pytest.skip("it is about texts or vectors, and models of Triton have tensors")
        triton.load("add", "tokens")
        self.url = triton.url

    def make(self) -> Backend:
        return open_backend(self.url)

    def inputs(self) -> list[Tensor]:
        return numbers("A", "B")

    def stream_inputs(self) -> list[Tensor]:
        return counted(3)


def numbers(*names: str, rows: int = 2) -> list[Tensor]:
    return [Tensor.of(name, np.full((rows, 3), 1.5, np.float32)) for name in names]


def counted(count: int, *, delay_ms: int = 0, fail_at: int = -1) -> list[Tensor]:
    given = {"COUNT": count, "DELAY_MS": delay_ms, "FAIL_AT": fail_at}
    return [Tensor.of(name, np.array([value], np.int32)) for name, value in given.items()]


async def exhausted(stream: AsyncIterator[object]) -> None:
    """Read a stream that is to fail."""
    async with asyncio.timeout(30):
        async for _ in stream:
            pass


@pytest.fixture
async def backend(triton: TritonServer) -> AsyncIterator[TritonBackend]:
    triton.load("add", "echo", "running_sum", "slow", "tokens")
    opened = open_backend(triton.url)
    assert isinstance(opened, TritonBackend)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


async def test_lives_from_start_to_stop(triton: TritonServer) -> None:
    triton.load("add")
    backend = open_backend(triton.url)
    assert not await backend.live()
    with pytest.raises(PlaneError, match="start it first"):
        await backend.infer("add", numbers("A", "B"), CTX)
    for _ in range(2):
        await backend.start()
        await backend.start()
        await backend.warm_up()
        assert await backend.live()
        assert await backend.ready("add")
        await backend.stop()
        await backend.stop()
        assert not await backend.live()
        assert not await backend.ready("add")


async def test_lists_what_metadata_says(backend: TritonBackend) -> None:
    listed = {model.name: model for model in await backend.list()}
    assert list(listed) == sorted(listed)
    assert {"add", "echo", "faulty", "tokens"} <= set(listed)
    for name in ("add", "tokens"):
        assert listed[name] == await backend.metadata(name)
        assert listed[name].state is ModelState.LOADED
        assert listed[name].version == "1"
        assert listed[name].platform == "triton_python"
        assert listed[name].capabilities <= backend.capabilities.models
    assert listed["add"].max_batch_size == 32
    assert listed["add"].inputs[0].shape == (-1, -1)


VALUES: dict[Datatype, object] = {
    Datatype.BOOL: [[True, False, True]],
    Datatype.FP16: np.array([[0.5, -2, np.inf]], np.float16),
    Datatype.FP32: np.array([[0.1, -2, np.inf]], np.float32),
    Datatype.FP64: np.array([[0.1, -2, np.inf]]),
    Datatype.BYTES: [[b"", b"\0\xff", b"a" * 300]],
    Datatype.BF16: [[1.0, -2.5, float("inf")]],
}


@pytest.mark.parametrize("datatype", list(Datatype))
async def test_every_datatype_there_and_back(backend: TritonBackend, datatype: Datatype) -> None:
    values = VALUES.get(datatype)
    if values is None:
        limits = np.iinfo(datatype.dtype)
        values = np.array([[limits.min, limits.max, 1]], datatype.dtype)
    sent = Tensor.of(datatype.value, values, datatype)
    [back] = await backend.infer("echo", [sent], CTX, outputs=[f"{datatype}_BACK"])
    assert (back.name, back.datatype, back.shape) == (f"{datatype}_BACK", datatype, (1, 3))
    assert back.data.tolist() == sent.data.tolist()


async def test_several_tensors_and_empty_ones(backend: TritonBackend) -> None:
    sent = [
        Tensor.of("BYTES", np.zeros((0, 2), np.object_)),
        Tensor.of("INT8", np.zeros((3, 0), np.int8)),
        Tensor.of("FP32", np.ones((1, 2), np.float32)),
    ]
    back = {each.name: each.data for each in await backend.infer("echo", sent, CTX)}
    for tensor in sent:
        np.testing.assert_array_equal(back[f"{tensor.name}_BACK"], tensor.data)


async def test_triton_makes_batches_of_what_comes_together(backend: TritonBackend) -> None:
    before = await backend.stats("add")
    answers = await asyncio.gather(
        *(backend.infer("add", numbers("A", "B", rows=3), CTX) for _ in range(64))
    )
    for [answer] in answers:
        np.testing.assert_array_equal(answer.data, np.full((3, 3), 3, np.float32))
    after = await backend.stats("add")
    assert (after.succeeded, after.in_flight) == (64, 0)
    assert after.items - before.items == 3 * 64
    assert after.executions - before.executions < 64


async def test_batches_that_do_not_do(backend: TritonBackend) -> None:
    one, many = numbers("A", "B"), numbers("A", "B", rows=33)
    none = [Tensor.of(name, np.zeros((0, 3), np.float32)) for name in "AB"]
    for inputs, told in (
        (many, "'A' of add: expected a batch of 1 to 32, got 33"),
        (none, "'A' of add: expected a batch of 1 to 32, got 0"),
        ([one[0], numbers("B", rows=5)[0]], "'B' of add: expected a batch of 2, as 'A' has, got 5"),
    ):
        with pytest.raises(PlaneError) as caught:
            await backend.infer("add", inputs, CTX)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert caught.value.message == f"input {told}"


async def test_what_is_not_decoupled_streams_once(backend: TritonBackend) -> None:
    stream = backend.stream("add", numbers("A", "B"), CTX)
    [[only]] = [outputs async for outputs in stream]
    assert only.name == "SUM"


async def test_a_stream_gives_what_the_model_sends(backend: TritonBackend) -> None:
    stream = backend.stream("tokens", counted(200), CTX)
    results = [outputs async for outputs in stream]
    assert [int(index.data[0]) for _, index in results] == list(range(200))
    assert [token.data[0] for token, _ in results] == [b"t%d " % each for each in range(200)]
    chosen = backend.stream("tokens", counted(2), CTX, outputs=["INDEX"])
    assert [[each.name for each in outputs] async for outputs in chosen] == [["INDEX"]] * 2
    nothing = backend.stream("tokens", counted(0), CTX)
    assert [outputs async for outputs in nothing] == []


async def test_sequences_keep_their_state(backend: TritonBackend) -> None:
    async def add(value: int, name: str, *, start: bool = False, end: bool = False) -> int:
        ctx = BackendContext(sequence=SequenceStep(name, start=start, end=end))
        sent = Tensor.of("VALUE", np.full((1, 1), value, np.int32))
        [total] = await backend.infer("running_sum", [sent], ctx)
        return int(total.data[0, 0])

    assert await add(1, "7", start=True) == 1
    assert await add(10, "8", start=True) == 10
    assert await add(2, "7") == 3
    assert await add(20, "8", end=True) == 30
    assert await add(3, "7", end=True) == 6
    assert await add(4, "7", start=True, end=True) == 4
    for name, told in (("9", "START"), ("nine", "'nine'"), ("0", "'0'"), (str(1 << 63), "2^63")):
        with pytest.raises(PlaneError) as caught:
            await add(1, name)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert told in caught.value.message


async def test_loading_and_unloading(backend: TritonBackend) -> None:
    loaded = await backend.load("faulty", ModelSource())
    assert loaded.state is ModelState.LOADED
    assert await backend.ready("faulty")
    assert await backend.ready("faulty", "1")
    for _ in range(2):
        await backend.unload("faulty")
        assert not await backend.ready("faulty")
        assert (await backend.metadata("faulty")).state is ModelState.UNLOADED
        assert (await backend.stats("faulty")).executions == 0
    with pytest.raises(PlaneError, match="faulty is unloaded") as caught:
        await backend.infer("faulty", [], CTX)
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_unloading_ends_what_runs(backend: TritonBackend) -> None:
    # Triton may go on with a stream that was cancelled while its model goes; it waits for its end.
    async with aclosing(backend.stream("tokens", counted(3000, delay_ms=5), CTX)) as stream:
        await anext(stream)
        await backend.unload("tokens")
        with pytest.raises(PlaneError, match="tokens was unloaded") as caught:
            await exhausted(stream)
    assert caught.value.code is Code.UNAVAILABLE
    # What another's model list still says does not stand in the way of a model that is back.
    await backend.load("tokens", ModelSource())
    assert len([outputs async for outputs in backend.stream("tokens", counted(2), CTX)]) == 2


async def test_a_model_from_a_folder(backend: TritonBackend, tmp_path: Path) -> None:
    folder = tmp_path / "sum"
    shutil.copytree(MODELS / "add", folder)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace("SUM", "TOTAL"))
    code = folder / "1" / "model.py"
    code.write_text(code.read_text().replace("SUM", "TOTAL"))
    loaded = await backend.load("sum", ModelSource(folder))
    assert [spec.name for spec in loaded.outputs] == ["TOTAL"]
    [total] = await backend.infer("sum", numbers("A", "B"), CTX)
    assert total.name == "TOTAL"
    # Loaded anew with another configuration, which those who know the first are to see.
    renamed = {"config": json.dumps({"backend": "python", "max_batch_size": 4, **_TENSORS})}
    assert (await backend.load("sum", ModelSource(folder, renamed))).max_batch_size == 4
    await backend.unload("sum")

    for broken in (folder / "1", tmp_path / "none", config):
        with pytest.raises(PlaneError, match="holds no model of Triton") as caught:
            await backend.load("sum", ModelSource(broken))
        assert caught.value.code is Code.INVALID_ARGUMENT
    code.write_text("this is no Python")
    with pytest.raises(PlaneError, match="sum cannot be loaded") as caught:
        await backend.load("sum", ModelSource(folder))
    assert caught.value.code is Code.INVALID_ARGUMENT
    with pytest.raises(PlaneError, match="'threads' is unknown"):
        await backend.load("add", ModelSource(parameters={"threads": "2"}))
    for wrong in ("{nope", "[]", '{"input": 5}'):
        with pytest.raises(PlaneError, match="'config' is no configuration") as caught:
            await backend.load("add", ModelSource(parameters={"config": wrong}))
        assert caught.value.code is Code.INVALID_ARGUMENT
    assert await backend.ready("add")


_TENSORS = {
    "input": [{"name": name, "data_type": "TYPE_FP32", "dims": [-1]} for name in "AB"],
    "output": [{"name": "TOTAL", "data_type": "TYPE_FP32", "dims": [-1]}],
    "instance_group": [{"kind": "KIND_CPU"}],
}


async def test_a_model_that_was_changed_behind_its_back(
    backend: TritonBackend, triton: TritonServer, tmp_path: Path
) -> None:
    folder = tmp_path / "changing"
    shutil.copytree(MODELS / "add", folder)
    await backend.load("changing", ModelSource(folder))
    other = open_backend(triton.url)
    await other.start()
    try:
        await other.infer("changing", numbers("A", "B"), CTX)
        for path in (folder / "config.pbtxt", folder / "1" / "model.py"):
            text = path.read_text().replace('"B"', '"C"').replace('"AB"', '"AC"')
            path.write_text(text)
        await backend.load("changing", ModelSource(folder))
        [total] = await other.infer("changing", numbers("A", "C"), CTX)
        assert total.shape == (2, 3)
    finally:
        await other.stop()
        await backend.unload("changing")


@pytest.mark.parametrize("shared", [True, False])
async def test_large_tensors(triton: TritonServer, shared: bool) -> None:
    triton.load("echo", "fixed")
    size = 1 << 16 if shared else 0
    backend = open_backend(f"{triton.url}?shared_memory_min_bytes={size}")
    assert isinstance(backend, TritonBackend)
    await backend.start()
    try:
        assert backend.shares_memory is shared
        random = np.random.default_rng(1)
        wide = random.normal(size=(400, 400)).astype(np.float32)
        sent = [
            Tensor.of("FP32", wide.T),  # Its memory is not in row-major order.
            Tensor.of("BF16", np.round(wide, 1).view(), Datatype.BF16),
            Tensor.of("BYTES", [[b"x" * 100_000, b""]]),
            Tensor.of("INT64", random.integers(0, 9, (200, 200))),
            Tensor.of("INT8", np.ones((1, 1), np.int8)),
        ]
        rounded = Tensor.unpack("", Datatype.BF16, (400, 400), sent[1].pack()).data
        for _ in range(3):
            back = {each.name: each.data for each in await backend.infer("echo", sent, CTX)}
            np.testing.assert_array_equal(back.pop("BF16_BACK"), rounded)
            for tensor in (sent[0], *sent[2:]):
                np.testing.assert_array_equal(back.pop(f"{tensor.name}_BACK"), tensor.data)
            assert not back
        # The shapes of these outputs are known beforehand, so they come back through it, too.
        row = random.normal(size=(2, 20_000)).astype(np.float32)
        ask = [Tensor.of("X", row)]
        for each in await asyncio.gather(*(backend.infer("fixed", ask, CTX) for _ in range(9))):
            np.testing.assert_array_equal(each[0].data, row * 2)
            np.testing.assert_array_equal(each[1].data, row[:, :1])
    finally:
        await backend.stop()
    left = os.listdir("/dev/shm")  # noqa: PTH208  # a Path here would block by ruff's lights
    assert not any(name.startswith(f"protoplane-{os.getpid()}-") for name in left)


async def test_deadlines_are_kept(backend: TritonBackend) -> None:
    late = BackendContext(request_id="late", deadline=monotonic() - 1)
    with pytest.raises(PlaneError, match="late ran out of time") as caught:
        await backend.infer("add", numbers("A", "B"), late)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    soon = BackendContext(request_id="soon", deadline=monotonic() + 0.3)
    with pytest.raises(PlaneError) as caught:
        await exhausted(backend.stream("tokens", counted(100_000, delay_ms=5), soon))
    assert caught.value.code is Code.DEADLINE_EXCEEDED

    async def idle() -> bool:
        return (await backend.stats("tokens")).in_flight == 0

    await eventually(idle)
