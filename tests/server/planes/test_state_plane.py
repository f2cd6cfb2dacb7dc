"""The state plane through every door, by its generated client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import pytest
from tests.server.planes.conftest import Offered

from protoplane.v1 import (
    StateClient,
    StateDeleteRequest,
    StateGetRequest,
    StateListRequest,
    StatePutRequest,
    StateSnapshot,
    StateWatchRequest,
    StateWatchResponse,
)
from protoplane_base import Code, Duration, PlaneError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(offered: Offered) -> StateClient:
    return StateClient(offered.plane)


async def put(client: StateClient, key: str, value: bytes, **more: Any) -> int:
    answer = await client.put(StatePutRequest(key=key, value=value, **more), timeout_s=20)
    return answer.revision


async def test_values_come_and_go(client: StateClient) -> None:
    value = bytes(range(256))
    revision = await put(client, "forge/router/plan", value)
    found = (await client.get(StateGetRequest(key="forge/router/plan"), timeout_s=20)).entry
    assert found is not None
    assert (found.key, found.value, found.revision) == ("forge/router/plan", value, revision)
    assert found.expires_at is None
    gone = StateDeleteRequest(key="forge/router/plan")
    assert (await client.delete(gone, timeout_s=20)).existed
    assert not (await client.delete(gone, timeout_s=20)).existed
    with pytest.raises(PlaneError) as caught:
        await client.get(StateGetRequest(key="forge/router/plan"), timeout_s=20)
    assert caught.value.code is Code.NOT_FOUND


async def test_compare_and_set(client: StateClient) -> None:
    first = await put(client, "a/b", b"1", expected_revision=0)
    with pytest.raises(PlaneError) as caught:
        await put(client, "a/b", b"2", expected_revision=0)
    assert caught.value.code is Code.ABORTED
    second = await put(client, "a/b", b"2", expected_revision=first)
    assert second > first
    with pytest.raises(PlaneError) as caught:
        await client.delete(StateDeleteRequest(key="a/b", expected_revision=first), timeout_s=20)
    assert caught.value.code is Code.ABORTED


async def test_what_cannot_be_put(client: StateClient) -> None:
    for key, ttl in (("a//b", None), ("a/*", None), ("a/b", Duration(-1))):
        with pytest.raises(PlaneError) as caught:
            await put(client, key, b"", ttl=ttl)
        assert caught.value.code is Code.INVALID_ARGUMENT, key


async def test_a_value_goes_when_its_time_is_up(client: StateClient) -> None:
    changes = client.watch(StateWatchRequest(expression="lease/**"), timeout_s=60)
    async with aclosing(cast("Any", changes)) as watching:
        await anext(watching)
        await put(client, "lease/one", b"x", ttl=Duration.from_seconds(0.2))
        there: StateWatchResponse = await anext(watching)
        assert there.entry is not None
        assert there.entry.expires_at is not None
        gone: StateWatchResponse = await anext(watching)
        assert gone.deleted is not None
        assert (gone.deleted.key, gone.deleted.expired) == ("lease/one", True)


async def test_a_list_comes_in_pages(client: StateClient) -> None:
    keys = [f"a/{number:02}" for number in range(7)]
    for key in reversed(keys):
        await put(client, key, key.encode())
    await put(client, "b/1", b"")
    seen: list[str] = []
    token = ""
    sizes: list[int] = []
    while True:
        request = StateListRequest(expression="a/*", page_size=3, page_token=token)
        page = await client.list(request, timeout_s=20)
        seen += [entry.key for entry in page.entries]
        sizes.append(len(page.entries))
        token = page.next_page_token
        if not token:
            break
    assert (seen, sizes) == (keys, [3, 3, 1])
    everything = await client.list(StateListRequest(), timeout_s=20)
    assert [entry.key for entry in everything.entries] == [*keys, "b/1"]


async def test_what_is_no_page(client: StateClient) -> None:
    for request in (StateListRequest(page_size=-1), StateListRequest(page_token="ä")):
        with pytest.raises(PlaneError) as caught:
            await client.list(request, timeout_s=20)
        assert caught.value.code is Code.INVALID_ARGUMENT, request


async def test_large_values_come_in_parts(client: StateClient) -> None:
    value = bytes(700_000)
    for number in range(3):
        await put(client, f"large/{number}", value)
    page = await client.list(StateListRequest(), timeout_s=20)
    assert len(page.entries) == 1
    assert page.next_page_token
    parts: list[StateSnapshot] = []
    changes = client.watch(StateWatchRequest(), timeout_s=60)
    async with aclosing(cast("Any", changes)) as watching:
        while not parts or parts[-1].more:
            change: StateWatchResponse = await anext(watching)
            assert change.snapshot is not None
            parts.append(change.snapshot)
    assert [entry.key for part in parts for entry in part.entries] == [
        "large/0",
        "large/1",
        "large/2",
    ]
    assert len(parts) == 3


async def test_a_watcher_sees_what_changes(client: StateClient) -> None:
    before = await put(client, "a/old", b"1")
    changes: AsyncIterator[StateWatchResponse] = client.watch(
        StateWatchRequest(expression="a/**"), timeout_s=60
    )
    async with asyncio.timeout(30), aclosing(cast("Any", changes)) as watching:
        first = (await anext(watching)).snapshot
        assert first is not None
        assert [entry.key for entry in first.entries] == ["a/old"]
        assert first.revision >= before
        await put(client, "b/else", b"")
        revision = await put(client, "a/new", b"2")
        entry = (await anext(watching)).entry
        assert entry is not None
        assert (entry.key, entry.value, entry.revision) == ("a/new", b"2", revision)
        await client.delete(StateDeleteRequest(key="a/old"), timeout_s=20)
        deleted = (await anext(watching)).deleted
        assert deleted is not None
        assert (deleted.key, deleted.expired) == ("a/old", False)
