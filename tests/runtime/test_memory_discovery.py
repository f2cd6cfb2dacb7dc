"""The memory engine keeps the suite of discoveries; and what an instance may be."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.runtime.discovery_suite import ONE, DiscoverySuite

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery, Instance, instance_name
from protoplane_runtime.engines.memory_discovery import MemoryDiscovery
from protoplane_runtime.entities import EntityId


class TestMemoryDiscovery(DiscoverySuite):
    @pytest.fixture
    def open(self) -> Callable[[], Discovery]:
        discovery = MemoryDiscovery()  # Seen in its own process, and by this handle alone.
        return lambda: discovery


def test_an_instance_survives_json() -> None:
    assert Instance.from_json(ONE.to_json()) == ONE
    assert json.loads(ONE.to_json())["metadata"] == {"model": "ünal"}
    assert hash(Instance.from_json(ONE.to_json())) == hash(ONE)


def test_what_is_made_of_it() -> None:
    assert ONE.component == "forge/captioner"
    assert ONE.id == EntityId.of("forge/captioner/one")
    made = Instance(instance_name("forge/captioner"))
    assert made.component == "forge/captioner"
    assert made.pid
    assert made.host


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "this is no instance"),
        ("{", "Invalid JSON"),
        ("{}", "name: "),
        ('{"name": "captioner"}', "names no instance"),
        ('{"name": "a/b c"}', "it holds ' '"),
        ('{"name": "a/b", "load": -1}', "0 or more"),
        ('{"name": "a/b", "load": "x"}', "load: "),
        ('{"name": "a/b", "namespace": "x/y"}', "without '/'"),
        ('{"name": "a/b", "endpoints": "grpc://h:1"}', "endpoints: "),
    ],
)
def test_bad_instances(text: str, says: str) -> None:
    with pytest.raises(PlaneError) as caught:
        Instance.from_json(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.message
