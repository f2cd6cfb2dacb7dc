"""Models that come and go: what the planes are told, where files come from, and what fails."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tests.component_suite import component_options
from tests.components.inference.scripted import Scripted
from tests.server.backends.models import write_model

from protoplane.inference.v1 import (
    DataType,
    GenerateRequest,
    InferenceClient,
    InferRequest,
    ListModelsRequest,
    LoadModelRequest,
    ModelState,
    ModelStatusRequest,
    Tensor,
    UnloadModelRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import Plane, connect
from protoplane_components.inference import Inference, component, sources
from protoplane_runtime.engines.interface import Start
from protoplane_runtime.engines.objects.interface import ObjectInfo, ObjectStore
from protoplane_runtime.engines.objects.opening import open_object_store
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Host, Server
from protoplane_server.backends.batcher import BatcherOptions
from protoplane_server.backends.interface import ModelMetadata, ModelSource

pytestmark = pytest.mark.anyio


class Noting(Inference):
    """Keeps its host, by which a test looks at the planes."""

    host: Host

    def hosted(self, host: Host) -> None:
        self.host = host
        super().hosted(host)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Running:
    """A component that runs, and a client of it."""

    def __init__(self, server: Server, component: Noting, plane: Plane) -> None:
        self.server = server
        self.host = component.host
        self.client = InferenceClient(plane)

    async def states(self, model: str) -> list[tuple[str, str]]:
        """What the event plane was told of a model so far, and why."""
        key = f"forge/models/models/{model}"
        marker = "forge/models/models/marker"
        await self.host.events.publish(marker, "x", b"", "{}")
        told: list[tuple[str, str]] = []
        async for batch in self.host.events.read([key, marker], after=Start.EARLIEST):
            for event in batch:
                if getattr(event, "key", "") == marker:
                    return told
                read = json.loads(getattr(event, "json", ""))
                told.append((read["state"].removeprefix("MODEL_STATE_"), read.get("reason", "")))
        return told

    async def state(self, model: str) -> str:
        """What the state plane holds of a model."""
        assert self.host.state is not None
        entry = await self.host.state.get(f"forge/models/models/{model}")
        assert entry is not None
        told = json.loads(entry.value)
        assert told["instance"] == "forge/models/one"
        state: str = told["state"].removeprefix("MODEL_STATE_")
        return state


async def run(component: Noting, **options: Any) -> AsyncIterator[Running]:
    chosen = component_options(
        **{"inproc": "models", "engine": "memory:", "name": "forge/models/one", **options}
    )
    async with Server(component, chosen) as server, connect("inproc:models") as plane:
        yield Running(server, component, plane)


@pytest.fixture
def backend() -> Scripted:
    return Scripted()


@pytest.fixture
async def running(backend: Scripted) -> AsyncIterator[Running]:
    async for each in run(Noting(backend)):
        yield each


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "models").mkdir()
    objects = (tmp_path / "objects").as_uri()
    component = Noting("embedded:", models=tmp_path / "models")
    async for each in run(component, objects=objects):
        yield each


def x(*values: float) -> InferRequest:
    tensor = Tensor(
        name="X",
        datatype=DataType.DATA_TYPE_FP32,
        shape=[len(values), 1],
        contents=np.array(values, "<f4").tobytes(),
    )
    return InferRequest(model="m", inputs=[tensor])


async def doubled(client: InferenceClient, *values: float, **options: Any) -> list[float]:
    answer = await client.infer(x(*values), **options)
    found: list[float] = np.frombuffer(answer.outputs[0].contents, "<f4").tolist()
    return found


async def test_the_planes_are_told_what_becomes_of_a_model(running: Running) -> None:
    assert await running.state("m") == "LOADED"
    await running.client.unload_model(UnloadModelRequest(model="m"))
    assert await running.state("m") == "UNLOADED"
    loaded = await running.client.load_model(LoadModelRequest(model="m", parameters={"a": "b"}))
    assert loaded.model is not None
    assert loaded.model.version == "3"
    assert await running.state("m") == "LOADED"
    assert [state for state, _ in await running.states("m")] == [
        "LOADED", "UNLOADING", "UNLOADED", "LOADING", "LOADED",
    ]  # fmt: skip


async def test_a_model_that_cannot_be_loaded(running: Running, backend: Scripted) -> None:
    backend.loaded = False
    request = LoadModelRequest(model="m", parameters={"fail": "1"})
    with pytest.raises(PlaneError, match="no good"):
        await running.client.load_model(request)
    assert await running.state("m") == "FAILED"
    assert (await running.states("m"))[-1] == ("FAILED", "these weights are no good")
    [model] = (await running.client.list_models(ListModelsRequest())).models
    assert (model.state, model.reason) == (
        ModelState.MODEL_STATE_FAILED, "these weights are no good"
    )  # fmt: skip
    await running.client.load_model(LoadModelRequest(model="m"))
    status = await running.client.model_status(ModelStatusRequest(model="m"))
    assert status.model is not None
    assert (status.model.state, status.model.reason) == (ModelState.MODEL_STATE_LOADED, "")
    # One that fails to be loaded anew stays as it was.
    with pytest.raises(PlaneError, match="no good"):
        await running.client.load_model(request)
    assert await running.state("m") == "LOADED"
    assert await doubled(running.client, 1) == [2]


async def test_a_server_that_stops_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"local:{tmp_path}"
    async for running in run(Noting(Scripted()), engine=url):
        assert await running.state("m") == "LOADED"
    engine = await open_engine(url)
    try:
        entry = await engine.state.get("forge/models/models/m")
    finally:
        await engine.close()
    assert entry is not None
    assert json.loads(entry.value)["state"] == "MODEL_STATE_UNLOADED"
    assert caplog.records == []


class Unsteady(Scripted):
    """One whose server goes away, or takes its time to load."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.loading = asyncio.Event()

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        if self.away:
            raise PlaneError(Code.UNAVAILABLE, "cannot reach it")
        return await super().metadata(model, version)

    async def load(self, model: str, source: ModelSource) -> ModelMetadata:
        if source.parameters.get("slow"):
            self.loading.set()
            await asyncio.Event().wait()
        return await super().load(model, source)


async def test_models_that_come_and_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component, "_ANNOUNCE_S", 0.01)
    backend = Unsteady()
    async for running in run(Noting(backend)):

        async def until(state: str, running: Running = running) -> None:
            async with asyncio.timeout(30):
                while True:
                    if await running.state("m") == state:
                        return
                    await asyncio.sleep(0.01)

        backend.loaded = False
        await until("UNLOADED")
        backend.loaded = True
        await until("LOADED")
        backend.away = True
        await until("FAILED")
        backend.away = False
        await until("LOADED")
        assert [told for told in await running.states("m") if told[0] == "FAILED"] == [
            ("FAILED", "cannot reach it")
        ]


async def test_a_model_that_loads_for_long_holds_up_no_other() -> None:
    backend = Unsteady()
    async for running in run(Noting(backend)):
        slow = LoadModelRequest(model="m", parameters={"slow": "1"})
        loading = asyncio.create_task(running.client.load_model(slow))
        await backend.loading.wait()
        with pytest.raises(PlaneError) as caught:
            await running.client.unload_model(UnloadModelRequest(model="n"), timeout_s=30)
        assert caught.value.code is Code.NOT_FOUND
        # The same one waits for its turn.
        with pytest.raises(PlaneError) as caught:
            await running.client.unload_model(UnloadModelRequest(model="m"), timeout_s=0.1)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        loading.cancel()
        await asyncio.wait([loading])


async def test_files_from_the_folder_and_from_objects(embedded: Running, tmp_path: Path) -> None:
    client = embedded.client
    write_model(tmp_path / "models" / "small.npz", hidden=8)
    await client.load_model(LoadModelRequest(model="small", source="small.npz"))
    store = await open_object_store((tmp_path / "objects").as_uri())
    await store.put("forge/models/tiny", (tmp_path / "models" / "small.npz").read_bytes())
    for _ in range(2):
        request = LoadModelRequest(model="tiny/1", source="object:forge/models/tiny")
        await client.load_model(request)
    assert await embedded.state("tiny%2F1") == "LOADED"
    for model in ("small", "tiny/1"):
        answers = client.generate(GenerateRequest(model=model, prompt="a"))
        assert [answer async for answer in answers]


async def test_a_folder_from_objects(tmp_path: Path) -> None:
    objects = (tmp_path / "objects").as_uri()
    store = await open_object_store(objects)
    files = {"config.pbtxt": b"name", "1/model.py": b"run", "1/deep/er/w": bytes(3 << 20)}
    for name, contents in files.items():
        await store.put(f"models/addx/{name}", contents)
    await store.put("models/addxy", b"another's")
    backend = Scripted()
    folders: list[Path] = []
    async for running in run(Noting(backend), objects=objects):
        load = running.client.load_model
        for _ in range(2):
            await load(LoadModelRequest(model="m", source="object:models/addx/"))
            folder = backend.source.path
            assert folder is not None
            found = [each for each in folder.rglob("*") if each.is_file()]
            assert {
                each.relative_to(folder).as_posix(): each.read_bytes() for each in found
            } == files
            folders.append(folder)
        assert folders[1].name == "addx"
        # A backend may load the model anew from the newest; what went before it is removed.
        assert not folders[0].exists()
        failing = LoadModelRequest(
            model="m", source="object:models/addx/", parameters={"fail": "1"}
        )
        with pytest.raises(PlaneError, match="no good"):
            await load(failing)
        left = backend.source.path
        assert left is not None
        assert left != folders[1]
        assert not left.exists()
        assert folders[1].exists()
        await load(LoadModelRequest(model="m", source="object:models/addxy"))
        one = backend.source.path
        assert one is not None
        assert one.read_bytes() == b"another's"
        assert not folders[1].exists()
        folders.append(one)
    # Nor does anything stay when the component stops.
    assert not any(each.exists() for each in folders)


class Listing:
    """A store that is said to hold any keys; each is of four bytes."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        for key in self.keys:
            yield ObjectInfo(key, 4, None, "", 0)

    @asynccontextmanager
    async def get(self, key: str) -> AsyncGenerator[AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"four"

        yield pieces()


@pytest.mark.parametrize(
    ("keys", "code", "told"),
    [
        (["m/../../x"], Code.INVALID_ARGUMENT, "has no name for a file"),
        (["m//etc/x"], Code.INVALID_ARGUMENT, "has no name for a file"),
        (["m/./x"], Code.INVALID_ARGUMENT, "has no name for a file"),
        (["m/a", "m/a/b"], Code.INVALID_ARGUMENT, "cannot be a file of a folder"),
        ([f"m/{'x' * 300}"], Code.INVALID_ARGUMENT, "cannot be a file of a folder"),
        ([f"m/{n}" for n in range(11)], Code.RESOURCE_EXHAUSTED, "more than 10 objects"),
        ([f"m/{n}" for n in range(6)], Code.RESOURCE_EXHAUSTED, "more than 20 bytes"),
        ([], Code.NOT_FOUND, "no object below 'm'"),
    ],
)
async def test_objects_that_are_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: list[str], code: Code, told: str
) -> None:
    monkeypatch.setattr(sources, "MAX_FILES", 10)
    monkeypatch.setattr(sources, "MAX_BYTES", 20)
    kept = tmp_path / "kept"
    kept.mkdir()

    async def store() -> ObjectStore:
        return cast("ObjectStore", Listing(*keys))

    with pytest.raises(PlaneError, match=told) as caught:
        async with sources.ModelFiles(None, store, kept).found("m", "object:m/"):
            pass
    assert caught.value.code is code
    assert str(tmp_path) not in caught.value.message
    assert os.listdir(kept) == []  # noqa: PTH208  # a Path here would block by ruff's lights
    assert os.listdir(tmp_path) == ["kept"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("object:/", Code.INVALID_ARGUMENT),
        ("object:", Code.INVALID_ARGUMENT),
        ("object:../", Code.INVALID_ARGUMENT),
        ("object:missing/", Code.NOT_FOUND),
        ("../secret.npz", Code.INVALID_ARGUMENT),
        ("/etc/passwd", Code.INVALID_ARGUMENT),
        (".", Code.INVALID_ARGUMENT),
        ("missing.npz", Code.NOT_FOUND),
        ("object:missing", Code.NOT_FOUND),
        ("notes.txt", Code.INVALID_ARGUMENT),
        ("folder", Code.FAILED_PRECONDITION),
        ("", Code.NOT_FOUND),
    ],
)
async def test_sources_that_do_not_do(
    embedded: Running, tmp_path: Path, source: str, code: Code
) -> None:
    write_model(tmp_path / "secret.npz", hidden=8)
    (tmp_path / "models" / "notes.txt").write_text("no weights")
    (tmp_path / "models" / "folder").mkdir()
    with pytest.raises(PlaneError) as caught:
        await embedded.client.load_model(LoadModelRequest(model="new", source=source))
    assert caught.value.code is code
    assert str(tmp_path) not in caught.value.message
    assert await embedded.state("new") == "FAILED"


async def test_without_a_folder_there_are_no_files(running: Running) -> None:
    with pytest.raises(PlaneError, match="set PROTOPLANE_MODELS") as caught:
        await running.client.load_model(LoadModelRequest(model="m", source="a.npz"))
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_requests_are_batched(running: Running, backend: Scripted) -> None:
    # The first finds out what the model takes; from then on those that come together go together.
    await doubled(running.client, 0)
    answers = await asyncio.gather(*(doubled(running.client, n, n + 1) for n in range(6)))
    assert answers == [[2 * n, 2 * n + 2] for n in range(6)]
    assert sum(backend.rows) == 1 + 12
    assert len(backend.rows) < 7
    # One that is wrong fails by itself.
    wrong = x(1)
    wrong.inputs[0].name = "Z"
    good, bad = await asyncio.gather(
        doubled(running.client, 4), running.client.infer(wrong), return_exceptions=True
    )
    assert good == [8]
    assert isinstance(bad, PlaneError)
    assert "'Z'" in bad.message
    # More than a batch may have goes by itself.
    assert len(await doubled(running.client, *range(9))) == 9


async def test_a_model_that_raises(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(PlaneError) as caught:
        await running.client.infer(x(-1))
    assert caught.value.code is Code.INTERNAL
    assert "1234" not in str(caught.value)
    assert "1234" in caplog.text
    with pytest.raises(PlaneError, match="the device is away") as caught:
        await running.client.infer(x(-3))
    assert caught.value.code is Code.UNAVAILABLE
    answers: Any = running.client.generate(GenerateRequest(model="m", prompt="a -3 b"))
    assert (await anext(answers)).text == "a"
    with pytest.raises(PlaneError, match="the device is away"):
        await anext(answers)
    assert await doubled(running.client, 3) == [6]


@pytest.mark.parametrize("batched", [True, False])
async def test_a_deadline_frees_the_slot_of_a_model_that_hangs(batched: bool) -> None:
    backend = Scripted()
    component = Noting(backend, batching=BatcherOptions() if batched else None)
    async for running in run(component):
        client = running.client
        await doubled(client, 0)
        calls = [
            client.infer(x(-2), timeout_s=0.3),
            anext(client.infer_stream(x(-2), timeout_s=0.3)),
            anext(client.generate(GenerateRequest(model="m", prompt="-2"), timeout_s=0.3)),
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [getattr(each, "code", each) for each in outcomes] == [Code.DEADLINE_EXCEEDED] * 3
        async with asyncio.timeout(20):
            while backend.hanging or running.server.dispatcher.open_calls:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            assert await doubled(client, 3) == [6]


async def test_the_backend_hears_of_the_call(backend: Scripted) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async for running in run(Noting(backend)):
        request = GenerateRequest(model="m", prompt="a", priority=5)
        metadata = {"x-request-id": "call-7", "traceparent": trace}
        answers = running.client.generate(request, metadata=metadata, timeout_s=100)
        assert [answer async for answer in answers]
    [ctx] = backend.contexts
    assert (ctx.request_id, ctx.priority) == ("call-7", 5)
    assert ctx.traceparent.split("-")[1] == trace.split("-")[1]
    left_s = ctx.time_remaining_s()
    assert left_s is not None
    assert 0 < left_s <= 100
