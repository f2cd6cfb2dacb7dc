"""The Triton backend when callers leave, models fail, and Triton itself goes and comes back."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from tests.server.backends.backend_suite import CTX, eventually
from tests.server.backends.test_triton import counted, exhausted, numbers
from tests.triton_server import MODELS, TritonServer, triton_or_skip

from protoplane_base import Code, PlaneError
from protoplane_server.backends.interface import BackendContext, ModelSource
from protoplane_server.backends.opening import open_backend
from protoplane_server.backends.tensors import Tensor
from protoplane_server.backends.triton.backend import TritonBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend(triton: TritonServer) -> AsyncIterator[TritonBackend]:
    triton.load("add", "echo", "slow", "tokens")
    opened = open_backend(triton.url)
    assert isinstance(opened, TritonBackend)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


def seconds(value: float) -> list[Tensor]:
    return [Tensor.of("SECONDS", np.full((1, 1), value, np.float32))]


def within(limit_s: float) -> BackendContext:
    return BackendContext(request_id="late", deadline=monotonic() + limit_s)


def how(word: str) -> list[Tensor]:
    return [Tensor.of("HOW", [word])]


async def begun(backend: TritonBackend, model: str) -> None:
    """Wait until a request to a model is on its way."""

    async def busy() -> bool:
        return (await backend.stats(model)).in_flight > 0

    await eventually(busy)


async def nothing_runs(triton: TritonServer) -> None:
    """Wait until Triton's own numbers say that nothing runs and nothing waits."""

    async def idle() -> bool:
        streams = await asyncio.to_thread(triton.metric, "tokens_streams", "tokens")
        waiting = [
            await asyncio.to_thread(triton.metric, "nv_inference_pending_request_count", model)
            for model in ("slow", "tokens")
        ]
        return streams == 0 and sum(waiting) == 0

    await eventually(idle)


async def test_200_cancelled_streams_leave_nothing_running(
    backend: TritonBackend, triton: TritonServer
) -> None:
    reading: asyncio.Queue[None] = asyncio.Queue()

    async def read() -> None:
        stream = backend.stream("tokens", counted(1_000_000, delay_ms=50), CTX)
        async with aclosing(stream) as results:
            await anext(results)
            reading.put_nowait(None)
            async for _ in results:
                pass

    tasks = [asyncio.create_task(read()) for _ in range(200)]
    async with asyncio.timeout(60):
        for _ in tasks:
            await reading.get()
    assert await asyncio.to_thread(triton.metric, "tokens_streams", "tokens") == 200
    assert (await backend.stats("tokens")).in_flight == 200
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
    await nothing_runs(triton)
    stats = await backend.stats("tokens")
    assert (stats.in_flight, stats.cancelled) == (0, 200)
    assert len([each async for each in backend.stream("tokens", counted(3), CTX)]) == 3


async def test_leaving_a_stream_stops_the_model(
    backend: TritonBackend, triton: TritonServer
) -> None:
    endless = counted(1_000_000, delay_ms=5)
    async with aclosing(backend.stream("tokens", endless, CTX)) as results:
        await anext(results)
    await nothing_runs(triton)


async def test_stopping_ends_what_runs(triton: TritonServer) -> None:
    triton.load("tokens", "slow")
    backend = open_backend(triton.url)
    assert isinstance(backend, TritonBackend)
    await backend.start()
    stream = backend.stream("tokens", counted(1_000_000, delay_ms=5), CTX)
    async with aclosing(stream) as results:
        await anext(results)
        waiting = asyncio.create_task(backend.infer("slow", seconds(600), CTX))
        await begun(backend, "slow")
        await backend.stop()
        for left in (waiting, exhausted(results)):
            with pytest.raises(PlaneError, match="not running") as caught:
                await left
            assert caught.value.code is Code.UNAVAILABLE
    await nothing_runs(triton)


async def test_a_deadline_frees_the_slot_of_a_model_that_hangs(
    backend: TritonBackend, triton: TritonServer
) -> None:
    with pytest.raises(PlaneError, match="late ran out of time") as caught:
        await backend.infer("slow", seconds(600), within(0.3))
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    stats = await backend.stats("slow")
    assert (stats.in_flight, stats.cancelled) == (0, 1)
    # The model has one instance: this answer says that it is free again.
    async with asyncio.timeout(30):
        await backend.infer("slow", seconds(0), CTX)


async def test_cancelling_frees_the_slot_too(backend: TritonBackend) -> None:
    hanging = asyncio.create_task(backend.infer("slow", seconds(600), CTX))
    await begun(backend, "slow")
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    async with asyncio.timeout(30):
        await backend.infer("slow", seconds(0), CTX)


async def test_every_request_has_a_timeout_that_triton_knows(triton: TritonServer) -> None:
    triton.load("slow")
    backend = open_backend(f"{triton.url}?timeout_s=40")
    await backend.start()
    try:
        for limit_s, ctx in ((40, CTX), (30, within(30)), (40, within(50))):
            [told] = await backend.infer("slow", seconds(0), ctx)
            assert 0 < int(told.data[0, 0]) <= limit_s * 1_000_000
            assert int(told.data[0, 0]) > (limit_s - 10) * 1_000_000
    finally:
        await backend.stop()
    impatient = open_backend(f"{triton.url}?timeout_s=0.2")
    await impatient.start()
    try:
        with pytest.raises(PlaneError) as caught:
            await impatient.infer("slow", seconds(600), CTX)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
    finally:
        await impatient.stop()


async def test_a_full_queue_says_when_to_try_again(
    backend: TritonBackend, triton: TritonServer
) -> None:
    ended = await asyncio.gather(
        *(backend.infer("slow", seconds(0.3), CTX) for _ in range(12)), return_exceptions=True
    )
    refused = [each for each in ended if isinstance(each, PlaneError)]
    assert 0 < len(refused) < 12
    for error in refused:
        assert error.code is Code.RESOURCE_EXHAUSTED
        assert error.message.startswith("2 requests")
        [hint] = error.details
        assert isinstance(hint, RetryInfo)
        assert hint.retry_delay.ToMilliseconds() > 0
    await backend.infer("slow", seconds(0), CTX)


async def test_a_queue_timeout_is_a_deadline(
    backend: TritonBackend, triton: TritonServer, tmp_path: Path
) -> None:
    source = triton.models / "slow"
    folder = tmp_path / "impatient"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text((source / "1" / "model.py").read_text())
    config = (source / "config.pbtxt").read_text()
    patient = "max_queue_size: 2"
    assert patient in config
    changed = config.replace(patient, "default_timeout_microseconds: 50000")
    (folder / "config.pbtxt").write_text(changed)
    await backend.load("impatient", ModelSource(folder))
    try:
        ended = await asyncio.gather(
            *(backend.infer("impatient", seconds(0.2), CTX) for _ in range(8)),
            return_exceptions=True,
        )
    finally:
        await backend.unload("impatient")
    late = [each for each in ended if isinstance(each, PlaneError)]
    assert late
    for error in late:
        assert error.code is Code.DEADLINE_EXCEEDED
        assert "queue" in error.message


async def test_a_model_that_fails(backend: TritonBackend) -> None:
    await backend.load("faulty", ModelSource())
    for word, code, told in (
        ("raise", Code.INTERNAL, "ValueError: the model raised this"),
        ("error", Code.INTERNAL, "the model answered this"),
        ("invalid", Code.INVALID_ARGUMENT, "the model does not like this"),
    ):
        with pytest.raises(PlaneError) as caught:
            await backend.infer("faulty", how(word), CTX)
        assert caught.value.code is code
        assert caught.value.message.endswith(told)
    assert (await backend.stats("faulty")).failed == 3
    [nothing] = await backend.infer("faulty", how("well"), CTX)
    assert nothing.data.tolist() == [0]

    stream = backend.stream("tokens", counted(9, fail_at=3), CTX)
    read: list[int] = []
    with pytest.raises(PlaneError, match="broke at token 3") as caught:  # noqa: PT012
        async for _, index in stream:
            read.append(int(index.data[0]))
    assert caught.value.code is Code.INTERNAL
    assert read == [0, 1, 2]


async def test_a_triton_that_starts_anew_gets_its_models_back(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    sent = tmp_path / "sent"
    shutil.copytree(MODELS / "add", sent)
    with triton_or_skip(tmp_path / "server") as server:
        backend = open_backend(server.url)
        assert isinstance(backend, TritonBackend)
        await backend.start()
        for model in ("add", "tokens", "slow", "fixed", "echo"):
            await backend.load(model, ModelSource())
        await backend.load("sent", ModelSource(sent))
        await backend.unload("fixed")
        other = open_backend(server.url)
        await other.start()
        await other.unload("echo")
        # All of them are remembered as loaded, but Triton says that somebody unloaded this one.
        with pytest.raises(PlaneError, match="echo is unloaded"):
            await backend.infer("echo", [], CTX)
        await other.stop()
        stream = backend.stream("tokens", counted(2), CTX)
        assert len([each async for each in stream]) == 2
        await backend.infer("add", numbers("A", "B"), CTX)
        # Nobody asks in between, so the backend takes the models for loaded.
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start_again)
        await eventually(backend.live)
        assert server.log().count("loading: add:1") == 1
        answers = await asyncio.gather(
            *(backend.infer("add", numbers("A", "B"), CTX) for _ in range(8))
        )
        assert len(answers) == 8
        assert server.log().count("loading: add:1") == 2
        stream = backend.stream("tokens", counted(3), CTX)
        assert len([each async for each in stream]) == 3
        [total] = await backend.infer("sent", numbers("A", "B"), CTX)
        assert total.data.tolist() == [[3, 3, 3], [3, 3, 3]]
        assert await backend.ready("slow")
        # Nor does it bring back what it was told to unload.
        assert not await backend.ready("fixed")
        with pytest.raises(PlaneError) as caught:
            await backend.infer("fixed", numbers("X"), CTX)
        assert caught.value.code is Code.FAILED_PRECONDITION
        await backend.stop()


async def test_a_model_that_cannot_be_loaded_again_is_tried_once(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    models = tmp_path / "models"
    shutil.copytree(MODELS / "add", models / "add")
    with triton_or_skip(tmp_path / "server", models) as server:
        backend = open_backend(server.url)
        await backend.start()
        await backend.load("add", ModelSource())
        await asyncio.to_thread(server.kill)
        with pytest.raises(PlaneError, match="cannot reach Triton"):
            await backend.infer("add", numbers("A", "B"), CTX)
        (models / "add" / "1" / "model.py").write_text("raise ValueError('no good')")
        await asyncio.to_thread(server.start_again)
        await eventually(backend.live)
        with pytest.raises(PlaneError, match="no good") as caught:
            await backend.infer("add", numbers("A", "B"), CTX)
        assert caught.value.code is Code.INVALID_ARGUMENT
        for _ in range(3):
            with pytest.raises(PlaneError) as caught:
                await backend.infer("add", numbers("A", "B"), CTX)
            assert caught.value.code is Code.FAILED_PRECONDITION
            assert "no good" in caught.value.message
            assert str(tmp_path) not in caught.value.message
        assert server.log().count("loading: add:1") == 2
        await backend.stop()


async def test_triton_is_killed_under_load_and_comes_back(tmp_path: Path) -> None:
    with triton_or_skip(tmp_path) as server:
        server.load("add", "fixed", "tokens")
        backend = open_backend(f"{server.url}?shared_memory_min_bytes=10000")
        assert isinstance(backend, TritonBackend)
        await backend.start()
        assert backend.shares_memory
        outcomes: Counter[str] = Counter()
        stopping = asyncio.Event()
        shared = [Tensor.of("X", np.ones((1, 20_000), np.float32))]

        async def call(model: str, inputs: list[Tensor]) -> None:
            while not stopping.is_set():
                try:
                    await backend.infer(model, inputs, within(20))
                except PlaneError as error:
                    outcomes[error.code.name] += 1
                    await asyncio.sleep(0.01)
                else:
                    outcomes[model] += 1
                    outcomes[f"{model} since"] += 1

        async def served(times: int) -> bool:
            return min(outcomes["add since"], outcomes["fixed since"]) >= times

        stream = backend.stream("tokens", counted(1_000_000, delay_ms=5), CTX)
        await anext(stream)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(call("add", numbers("A", "B")))
                tasks.create_task(call("fixed", shared))
            await eventually(lambda: served(5))
            await asyncio.to_thread(server.kill)
            with pytest.raises(PlaneError, match="cannot reach Triton") as caught:
                await exhausted(stream)
            assert caught.value.code is Code.UNAVAILABLE
            seen = outcomes["UNAVAILABLE"]

            async def refused() -> bool:
                return outcomes["UNAVAILABLE"] > seen + 8

            await eventually(refused)
            assert not await backend.live()
            assert not await backend.ready("add")
            await asyncio.to_thread(server.start_again)
            await asyncio.to_thread(server.load, "add", "fixed")
            outcomes.pop("add since", None)
            outcomes.pop("fixed since", None)
            await eventually(lambda: served(20), 60)
            stopping.set()
        # A model is loaded a moment after Triton is there.
        assert set(outcomes) <= {
            *("add", "add since", "fixed", "fixed since"),
            *("UNAVAILABLE", "FAILED_PRECONDITION"),
        }
        assert await backend.live()
        assert (await backend.stats("add")).in_flight == 0
        # A model that takes its process with it; Triton cannot unload it then.
        await backend.load("faulty", ModelSource())
        with pytest.raises(PlaneError, match="the process of the model has ended") as caught:
            await backend.infer("faulty", how("exit"), CTX)
        assert caught.value.code is Code.UNAVAILABLE
        await backend.stop()
        await backend.start()
        await backend.infer("add", numbers("A", "B"), CTX)
        await backend.stop()
        server.kill()
        with pytest.raises(PlaneError, match="cannot reach Triton") as caught:
            await backend.start()
        assert caught.value.code is Code.UNAVAILABLE
