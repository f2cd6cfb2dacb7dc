"""What a worker says of itself in discovery comes back as it was; nothing else is taken for it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.components.inference.scripted import Scripted

from protoplane.inference.v1 import Capability, Model, ModelState
from protoplane_base import PlaneError
from protoplane_components.inference import Inference, component
from protoplane_components.inference.announcing import (
    Announcement,
    announce,
    announced,
    capacity_of,
    loaded,
)
from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.opening import open_engine
from protoplane_server import Options, Server

CAN = st.frozensets(st.sampled_from([each for each in Capability if each.value]))


@given(st.dictionaries(st.text(), CAN), st.integers(1, 2**31 - 1))
def test_it_comes_back_as_it_was(models: dict[str, frozenset[Capability]], capacity: int) -> None:
    instance = Instance("a/b", metadata=announce(models, capacity))
    assert announced(instance) == Announcement(capacity, models)


@given(st.dictionaries(st.sampled_from(["inference.capacity", "inference.models"]), st.text()))
def test_anything_else_is_nothing(metadata: dict[str, str]) -> None:
    found = announced(Instance("a/b", metadata=metadata))
    assert found.capacity is None or metadata["inference.capacity"].isdigit()
    assert not found.models


@pytest.mark.parametrize("text", ["0", "-1", "x", "²", str(1 << 31)])
def test_a_capacity_that_is_none_is_told(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        instance = Instance("a/b", metadata={"inference.capacity": text})
        assert announced(instance) == Announcement()
    assert "a/b" in caplog.text
    with pytest.raises(PlaneError, match="give the most requests"):
        capacity_of({"PROTOPLANE_INFERENCE_CAPACITY": text})


def test_capabilities_of_later_releases_are_passed_over() -> None:
    said = {"inference.models": '{"m":["embed","dream"]}'}
    assert announced(Instance("a/b", metadata=said)).models == {
        "m": frozenset({Capability.CAPABILITY_EMBED})
    }


@pytest.mark.anyio
async def test_models_that_come_and_go_by_themselves_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "_ANNOUNCE_S", 0.01)
    backend = Scripted()
    options = Options(grpc=None, http=None, engine=f"local:{tmp_path}", name="a/inference/b")
    engine = await open_engine(f"local:{tmp_path}")
    async with Server(Inference(backend, capacity=7), options):

        async def until(models: set[str]) -> None:
            async with asyncio.timeout(30):
                while True:
                    [instance] = await engine.discovery.instances("a/inference")
                    said = announced(instance)
                    assert said.capacity == 7
                    if said.models is not None and {*said.models} == models:
                        return
                    await asyncio.sleep(0.01)

        await until({"m"})
        backend.loaded = False
        await until(set())
        backend.loaded = True
        await until({"m"})
    await engine.close()


def test_only_loaded_models_count() -> None:
    models = [Model(name=state.name, state=state) for state in ModelState]
    assert [*loaded(models)] == ["MODEL_STATE_LOADED"]


def test_of_very_many_models_nothing_is_told() -> None:
    models = {str(number): frozenset[Capability]() for number in range(1001)}
    said = announced(Instance("a/b", metadata=announce(models, 7)))
    assert said == Announcement(7)
