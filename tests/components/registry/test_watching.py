"""Who follows the registry hears of each change, and of where models are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.component_suite import component_options
from tests.components.registry.running import add, running

from protoplane.inference.v1 import (
    InferenceClient,
    LoadModelRequest,
    ModelState,
    ModelStatusChanged,
    UnloadModelRequest,
)
from protoplane.registry.v1 import (
    DeleteVersionRequest,
    GetModelRequest,
    ListPlacementsRequest,
    Placement,
    RegistryClient,
    SetAliasRequest,
    VersionSpec,
    WatchRequest,
    WatchResponse,
)
from protoplane_base import Code, PlaneError, Timestamp
from protoplane_client import connect
from protoplane_components.inference import Inference
from protoplane_components.registry import Registry
from protoplane_components.registry.addresses import database_url
from protoplane_components.registry.catalog import Catalog, StoredFile
from protoplane_components.registry.database import Database
from protoplane_components.registry.watching import Bell, watch
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Server

pytestmark = pytest.mark.anyio


class Following:
    """One who follows, and what was heard so far."""

    def __init__(self, registry: RegistryClient, model: str = "") -> None:
        # An async generator of the generated client, which its type does not tell.
        self.changes: Any = registry.watch(WatchRequest(model=model))

    async def until(self, heard: Callable[[WatchResponse], bool]) -> list[WatchResponse]:
        """All that comes up to something."""
        found: list[WatchResponse] = []
        async with asyncio.timeout(30):
            while not (found and heard(found[-1])):
                found.append(await anext(self.changes))
        return found


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'registry.sqlite'}"


@pytest.fixture
async def registry(url: str, tmp_path: Path) -> AsyncIterator[RegistryClient]:
    async with running(url, tmp_path) as client:
        yield client


async def test_changes_of_another_process_are_heard(
    registry: RegistryClient, url: str, tmp_path: Path
) -> None:
    await add(registry, "small", "1", b"one")
    following = Following(registry)
    async with aclosing(following.changes), running(url, tmp_path, name="two") as other:
        first, ready = await following.until(lambda each: each.ready is not None)
        assert first.model is not None
        assert [version.version for version in first.model.versions] == ["1"]
        assert ready.model is None
        await add(other, "small", "2", b"two")
        [told] = await following.until(lambda each: each.model is not None)
        assert told.model is not None
        assert told.model.version_count == 2
        await other.set_alias(SetAliasRequest(model="small", alias="prod", version="1"))
        await following.until(lambda each: each.model is not None and "prod" in each.model.aliases)
        for version in ("1", "2"):
            await other.delete_version(DeleteVersionRequest(model="small", version=version))
        await following.until(lambda each: each.removed == "small")


async def test_one_model_alone(registry: RegistryClient) -> None:
    await add(registry, "other", "1")
    following = Following(registry, "small")
    async with aclosing(following.changes):
        [ready] = await following.until(lambda each: True)
        assert ready.ready is not None
        await add(registry, "other", "2", b"two")
        await add(registry, "small", "1")
        [told] = await following.until(lambda each: True)
        assert told.model is not None
        assert told.model.name == "small"


async def test_what_was_told_to_nobody_is_found(url: str) -> None:
    database = await Database.open(database_url(url))
    catalog = Catalog(database)
    changes = watch("", catalog, dict, Bell(), look_s=0.05)
    async with aclosing(changes), asyncio.timeout(30):
        assert (await anext(changes)).ready is not None
        file = StoredFile("forge/small", 1, "0" * 64, owned=False)
        await catalog.add(VersionSpec(model="small"), file)
        told = (await anext(changes)).model
        assert told is not None
        assert told.version_count == 1
    await database.close()


async def test_where_models_are(registry: RegistryClient, tmp_path: Path) -> None:
    await add(registry, "char-gru", "1")
    following = Following(registry)
    options = component_options(
        engine=f"local:{tmp_path}", inproc="placed", name="protoplane/inference/one"
    )
    async with aclosing(following.changes):
        await following.until(lambda each: each.ready is not None)
        async with Server(Inference("embedded:"), options), connect("inproc:placed") as plane:
            await following.until(_placed("char-gru", ModelState.MODEL_STATE_LOADED))
            answer = await registry.get_model(GetModelRequest(model="char-gru"))
            assert [each.instance for each in answer.placements] == ["protoplane/inference/one"]
            inference = InferenceClient(plane)
            await inference.unload_model(UnloadModelRequest(model="char-gru"))
            await following.until(_gone("char-gru"))
            await inference.load_model(LoadModelRequest(model="char-gru"))
            await following.until(_placed("char-gru", ModelState.MODEL_STATE_LOADED))
        await following.until(_gone("char-gru"))
    assert not (await registry.list_placements(ListPlacementsRequest())).placements


async def test_instances_of_one_component_are_told_apart(
    registry: RegistryClient, tmp_path: Path
) -> None:
    engine = await open_engine(f"local:{tmp_path}")

    async def say(key: str, instance: str, state: ModelState) -> None:
        said = ModelStatusChanged(
            name="small", instance=instance, state=state, changed_at=Timestamp.now()
        )
        await engine.state.put(key, said.model_dump_json().encode())

    async def placements(**asked: str) -> list[Placement]:
        answer = await registry.list_placements(ListPlacementsRequest(**asked))
        return answer.placements

    following = Following(registry)
    loaded, failed = ModelState.MODEL_STATE_LOADED, ModelState.MODEL_STATE_FAILED
    try:
        async with aclosing(following.changes):
            await following.until(lambda each: each.ready is not None)
            await engine.state.put("forge/x/models/broken", b"no status")
            await say("forge/x/one/models/small", "forge/x/one", loaded)
            async with engine.discovery.register(Instance("forge/x/one")):
                await following.until(_placed("small", loaded))
                async with engine.discovery.register(Instance("forge/x/two")):
                    await say("forge/x/two/models/small", "forge/x/two", loaded)
                    await following.until(_placed("small", loaded))
                    found = await placements(model="small", instance="forge/x")
                    assert [each.instance for each in found] == ["forge/x/one", "forge/x/two"]
                    assert not await placements(model="other")
                    assert len(await placements(instance="forge/x/two")) == 1
                    # The newest counts, under whichever key it was said.
                    await say("forge/x/models/small", "forge/x/two", failed)
                    await following.until(_placed("small", failed))
                await following.until(_gone("small"))
                [left] = await placements()
                assert left.instance == "forge/x/one"
    finally:
        await engine.close()


async def test_a_server_that_stops_does_not_wait_for_watchers(tmp_path: Path) -> None:
    options = component_options(
        engine=f"local:{tmp_path}", link=("link+tcp://127.0.0.1:0",), grace_s=600
    )
    server = Server(Registry("sqlite::memory:"), options)
    async with server, connect(server.link_addresses[0]) as plane:
        following = Following(RegistryClient(plane))
        await following.until(lambda each: each.ready is not None)
        async with asyncio.timeout(60):
            await server.stop()
        with pytest.raises(PlaneError) as caught:
            await following.until(lambda each: False)
        assert caught.value.code is Code.UNAVAILABLE


def _placed(model: str, state: ModelState) -> Callable[[WatchResponse], bool]:
    return lambda each: (
        each.placed is not None and each.placed.model == model and each.placed.state == state
    )


def _gone(model: str) -> Callable[[WatchResponse], bool]:
    return lambda each: each.gone is not None and each.gone.model == model
