"""The static engine: a list in the URL or in a file."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.runtime.discovery_suite import DiscoverySuite, Watch

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Discovery
from protoplane_runtime.engines.static_discovery import StaticDiscovery

pytestmark = pytest.mark.anyio
ENTRY = '[[instances]]\ncomponent = "forge/captioner"\nendpoints = ["grpc://a:1"]\n'


class TestStaticDiscovery(DiscoverySuite):
    """What is registered is seen in its own process."""

    @pytest.fixture
    async def open(self) -> Callable[[], Discovery]:
        discovery = await StaticDiscovery.open("")
        return lambda: discovery


async def test_a_list_in_the_url() -> None:
    text = (
        "forge/captioner=grpc://a:1,http://a:2; forge/captioner=grpc://b:1;forge/router=http://c:1"
    )
    discovery = await StaticDiscovery.open(text)
    found = await discovery.instances("forge/captioner")
    assert {each.endpoints for each in found} == {("grpc://a:1", "http://a:2"), ("grpc://b:1",)}
    again = await StaticDiscovery.open(text)
    assert list(await again.instances("forge/captioner")) == list(found)
    assert len(await again.instances()) == 3
    await discovery.close()
    await again.close()


@pytest.mark.parametrize("kind", ["toml", "json"])
async def test_a_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"instances.{kind}"
    instances = [
        {"component": "forge/captioner", "endpoints": ["grpc://a:1"], "metadata": {"gpu": "h200"}},
        {"name": "forge/captioner/two", "endpoints": ["grpc://b:1"], "namespace": "test"},
    ]
    if kind == "json":
        file.write_text(json.dumps({"instances": instances}))
    else:
        file.write_text(
            ENTRY
            + 'metadata = {gpu = "h200"}\n[[instances]]\nname = "forge/captioner/two"\n'
            + 'endpoints = ["grpc://b:1"]\nnamespace = "test"\n'
        )
    discovery = await StaticDiscovery.open(str(file))
    [one] = await discovery.instances()
    [two] = await discovery.instances(namespace="test")
    assert (one.component, one.metadata) == ("forge/captioner", {"gpu": "h200"})
    assert two.name == "forge/captioner/two"
    await discovery.close()


async def test_a_file_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "instances.toml"
    file.write_text(ENTRY)
    discovery = await StaticDiscovery.open(str(file))
    async with aclosing(discovery.watch()) as changes:
        watch = Watch(changes)
        await watch.next()
        [name] = watch.there
        file.write_text(ENTRY + '[[instances]]\nname = "a/b"\nendpoints = ["http://c:1"]\n')
        await watch.names(name, "a/b")
        with caplog.at_level(logging.WARNING):
            file.write_text("no list")
            async with asyncio.timeout(10):
                while "stays as it was" not in caplog.text:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert len(await discovery.instances()) == 2
        file.write_text(ENTRY)
        await watch.names(name)
    await discovery.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("forge/captioner", "lists no instance"),
        ("forge/captioner=", "lists no instance"),
        ("=grpc://a:1", "no path of an entity"),
        ("a=grpc://a:1;a=grpc://a:1", "twice"),
    ],
)
async def test_bad_lists(text: str, says: str) -> None:
    with pytest.raises(PlaneError) as caught:
        await StaticDiscovery.open(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "lists no instances"),
        ("a.json", "[1]", "instance 1: an instance has"),
        ("a.toml", "[[instances]]", "instance 1: it has no endpoints"),
        ("a.toml", ENTRY + 'pid = "x"', "instance 1: this is no instance: pid"),
        ("a.toml", ENTRY + ENTRY, "twice"),
    ],
)
async def test_bad_files(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PlaneError) as caught:
        await StaticDiscovery.open(str(tmp_path / name))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert says in caught.value.message


async def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(PlaneError) as caught:
        await StaticDiscovery.open(str(tmp_path / "none.toml"))
    assert caught.value.code is Code.NOT_FOUND
