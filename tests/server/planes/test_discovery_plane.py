"""Discovery through every door, by its generated client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component_suite import component_options
from tests.parts import Parts
from tests.server.planes.conftest import NAME, Offered, address, options

from protoplane.v1 import (
    DiscoveryClient,
    DiscoveryWatchRequest,
    InstanceChangeKind,
    InstancesRequest,
)
from protoplane_base import Code, PlaneError
from protoplane_client import connect
from protoplane_runtime.entities import EntityId
from protoplane_server import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def offered(door: str, tmp_path: Path) -> AsyncIterator[Offered]:
    served = options(door, engine=f"local:{tmp_path}")
    async with Server(Parts(), served) as server, connect(address(server, door)) as plane:
        yield Offered(plane, server)


@pytest.fixture
def client(offered: Offered) -> DiscoveryClient:
    return DiscoveryClient(offered.plane)


def another(folder: Path, name: str, **more: Any) -> Server:
    return Server(Parts(), component_options(engine=f"local:{folder}", name=name, **more))


async def test_who_is_there(client: DiscoveryClient, offered: Offered) -> None:
    answer = await client.instances(InstancesRequest(path="forge"), timeout_s=20)
    [found] = answer.instances
    assert (found.name, found.component, found.namespace) == (NAME, "forge/captioner", "default")
    assert found.entity_id == bytes(EntityId.of(NAME))
    assert tuple(found.endpoints) == offered.server.endpoints
    assert "forge.captioner.v1.CaptionerService" in found.services
    assert "protoplane.v1.State" in found.services
    assert found.pid > 0
    assert not (await client.instances(InstancesRequest(path="mill"), timeout_s=20)).instances


async def test_what_is_no_path(client: DiscoveryClient) -> None:
    with pytest.raises(PlaneError) as caught:
        await client.instances(InstancesRequest(path="forge//x"), timeout_s=20)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_pages_and_namespaces(client: DiscoveryClient, tmp_path: Path) -> None:
    two = another(tmp_path, "forge/captioner/two")
    three = another(tmp_path, "forge/captioner/three", namespace="blue")
    async with two, three:
        seen: list[str] = []
        token = ""
        while True:
            request = InstancesRequest(namespace="*", page_size=1, page_token=token)
            page = await client.instances(request, timeout_s=20)
            [found] = page.instances
            seen.append(found.name)
            token = page.next_page_token
            if not token:
                break
        assert sorted(seen) == sorted([NAME, two.name, three.name])
        plain = await client.instances(InstancesRequest(), timeout_s=20)
        assert {each.name for each in plain.instances} == {NAME, two.name}
        blue = await client.instances(InstancesRequest(namespace="blue"), timeout_s=20)
        assert [each.name for each in blue.instances] == [three.name]


async def test_who_comes_and_goes(client: DiscoveryClient, tmp_path: Path) -> None:
    name = "forge/captioner/two"
    watched = client.watch(DiscoveryWatchRequest(path="forge/captioner"), timeout_s=60)
    seen: list[tuple[str, int]] = []

    async def until(change: tuple[str, int]) -> None:
        while change not in seen:
            batch = await anext(watching)
            for each in batch.changes:
                assert each.instance is not None
                seen.append((each.instance.name, each.kind))

    async with asyncio.timeout(30), aclosing(cast("Any", watched)) as watching:
        await until((NAME, InstanceChangeKind.INSTANCE_CHANGE_KIND_JOINED))
        async with another(tmp_path, name):
            await until((name, InstanceChangeKind.INSTANCE_CHANGE_KIND_JOINED))
        await until((name, InstanceChangeKind.INSTANCE_CHANGE_KIND_LEFT))


async def test_the_first_answer_comes_also_where_nobody_is(client: DiscoveryClient) -> None:
    watched = client.watch(DiscoveryWatchRequest(path="mill"), timeout_s=60)
    async with asyncio.timeout(30), aclosing(cast("Any", watched)) as watching:
        first = await anext(watching)
        assert (first.changes, first.more) == ([], False)
