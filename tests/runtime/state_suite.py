"""What every driver of `StateStore` keeps; derive from the suite and define `open`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import pytest

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.state import (
    MAX_VALUE_BYTES,
    Deleted,
    Entry,
    Snapshot,
    StateStore,
)

Open = Callable[[], Awaitable[StateStore]]
Told = Snapshot | Entry | Deleted


async def told(watch: AsyncIterator[Told], timeout_s: float = 10) -> Told:
    """What a watcher is told next."""
    async with asyncio.timeout(timeout_s):
        return await anext(watch)


def watching(
    store: StateStore, expression: str = "**"
) -> AbstractAsyncContextManager[AsyncIterator[Told]]:
    """A watch that a block closes."""
    return aclosing(store.watch(expression))


def facts(entries: Any) -> list[tuple[str, bytes]]:
    return [(entry.key, entry.value) for entry in entries]


class StateSuite:
    """The cases; what one handle changes, others of the same engine see."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def open(self) -> Open:
        """Opens a handle; every call gives one that sees the same values."""
        raise NotImplementedError

    @pytest.fixture
    async def handles(self, open: Open) -> AsyncIterator[Open]:  # noqa: A002
        opened: list[StateStore] = []

        async def another() -> StateStore:
            opened.append(await open())
            return opened[-1]

        yield another
        for each in opened:
            await each.close()

    @pytest.fixture
    async def here(self, handles: Open) -> StateStore:
        return await handles()

    @pytest.fixture
    async def there(self, handles: Open) -> StateStore:
        return await handles()

    async def test_put_and_get(self, here: StateStore, there: StateStore) -> None:
        assert await there.get("a/b") is None
        first = await here.put("a/b", b"one\x00")
        assert await there.get("a/b") == Entry("a/b", b"one\x00", first)
        second = await there.put("a/b", b"")
        assert second > first
        assert await here.get("a/b") == Entry("a/b", b"", second)

    async def test_delete(self, here: StateStore, there: StateStore) -> None:
        first = await here.put("a", b"1")
        assert await there.delete("a") is True
        assert await here.delete("a") is False
        assert await here.get("a") is None
        assert list(await here.list()) == []
        assert await here.put("a", b"2") > first + 1

    async def test_compare_and_set(self, here: StateStore, there: StateStore) -> None:
        first = await here.put("a", b"1", expected=0)
        for wrong in (0, first + 1):
            for change in (
                there.put("a", b"x", expected=wrong),
                there.delete("a", expected=wrong),
            ):
                with pytest.raises(PlaneError) as caught:
                    await change
                assert caught.value.code is Code.ABORTED
        assert await here.get("a") == Entry("a", b"1", first)
        second = await there.put("a", b"2", expected=first)
        assert await here.delete("a", expected=second) is True
        with pytest.raises(PlaneError) as caught:
            await there.put("a", b"3", expected=second)
        assert caught.value.code is Code.ABORTED
        assert await there.delete("a", expected=0) is False
        assert await there.put("a", b"3", expected=0) > second

    async def test_one_of_many_wins(self, here: StateStore, there: StateStore) -> None:
        counts = 0

        async def count(store: StateStore) -> None:
            nonlocal counts
            for _ in range(10):
                while True:
                    entry = await store.get("count")
                    value = int(entry.value) if entry is not None else 0
                    expected = entry.revision if entry is not None else 0
                    try:
                        await store.put("count", str(value + 1).encode(), expected=expected)
                        break
                    except PlaneError as error:
                        if error.code is not Code.ABORTED:
                            raise
                counts += 1

        await asyncio.gather(*(count(store) for store in (here, there) for _ in range(4)))
        entry = await here.get("count")
        assert entry is not None
        assert int(entry.value) == counts == 80

    async def test_list(self, here: StateStore, there: StateStore) -> None:
        for key in ("b/2", "a/1", "b/1", "b/1/x", "c"):
            await here.put(key, key.encode())
        await here.delete("c")
        assert [entry.key for entry in await there.list()] == ["a/1", "b/1", "b/1/x", "b/2"]
        assert [entry.key for entry in await there.list("b/*")] == ["b/1", "b/2"]
        assert [entry.key for entry in await there.list("b/1/**")] == ["b/1", "b/1/x"]
        assert facts(await there.list("a/1")) == [("a/1", b"a/1")]

    async def test_many_puts_at_once(self, here: StateStore, there: StateStore) -> None:
        puts = [store.put(f"k/{number}", b"x") for number, store in enumerate([here, there] * 200)]
        revisions = await asyncio.gather(*puts)
        assert len(set(revisions)) == 400
        assert len(await here.list("k/*")) == 400

    async def test_a_watch_begins_with_what_is_there(
        self, here: StateStore, there: StateStore
    ) -> None:
        await here.put("a/1", b"1")
        revision = await here.put("b/1", b"1")
        async with watching(there, "a/**") as watch:
            whole = await told(watch)
            assert isinstance(whole, Snapshot)
            assert facts(whole.entries) == [("a/1", b"1")]
            assert whole.revision >= revision
            await here.put("b/1", b"2")
            second = await here.put("a/2", b"2")
            assert await told(watch) == Entry("a/2", b"2", second)
            await there.delete("a/1")
            gone = await told(watch)
            assert isinstance(gone, Deleted)
            assert (gone.key, gone.expired) == ("a/1", False)
            assert gone.revision > second

    async def test_a_watch_of_nothing(self, here: StateStore, there: StateStore) -> None:
        async with watching(there) as watch:
            assert await told(watch) == Snapshot(0, ())
            revision = await here.put("a", b"1")
            assert await told(watch) == Entry("a", b"1", revision)

    async def test_a_watcher_that_is_slow_misses_no_last_value(
        self, here: StateStore, there: StateStore
    ) -> None:
        seen: dict[str, bytes] = {}
        last = 0
        async with watching(there) as watch:
            await told(watch)
            for round_ in range(20):
                for key in ("a", "b", "c"):
                    await here.put(key, str(round_).encode())
            await here.delete("b")
            end = await here.put("end", b"")
            while last < end:
                change = await told(watch)
                assert isinstance(change, Entry | Deleted)
                assert change.revision > last
                last = change.revision
                if isinstance(change, Entry):
                    seen[change.key] = change.value
                else:
                    seen.pop(change.key, None)
        assert seen == {"a": b"19", "c": b"19", "end": b""}

    async def test_time_to_live(self, here: StateStore, there: StateStore) -> None:
        async with watching(there) as watch:
            await told(watch)
            begun_ns = time.time_ns()
            revision = await here.put("a", b"1", ttl_s=0.2)
            entry = await told(watch)
            assert isinstance(entry, Entry)
            assert entry.revision == revision
            assert entry.expires_ns is not None
            assert begun_ns < entry.expires_ns
            await here.put("b", b"1", ttl_s=0.2)
            kept = await here.put("b", b"2")
            assert await there.get("b") == Entry("b", b"2", kept)
            while not isinstance(gone := await told(watch), Deleted):
                pass
            assert gone.key == "a"
            assert gone.expired
            assert gone.revision > revision
        assert await there.get("a") is None
        assert facts(await here.list()) == [("b", b"2")]
        assert await here.put("a", b"3", expected=0)

    async def test_expired_without_watchers(self, here: StateStore, there: StateStore) -> None:
        first = await here.put("a", b"1", ttl_s=0.05)
        await asyncio.sleep(0.06)
        assert await there.get("a") is None
        assert list(await there.list()) == []
        with pytest.raises(PlaneError):
            await there.put("a", b"2", expected=first)
        assert await there.delete("a") is False

    async def test_closing_ends_watches(self, here: StateStore) -> None:
        async with watching(here) as watch:
            await told(watch)
            waiting = asyncio.ensure_future(anext(watch, None))
            await asyncio.sleep(0.01)
            await here.close()
            await here.close()
            assert await waiting is None
        for use in (here.get("a"), here.put("a", b""), here.delete("a"), here.list()):
            with pytest.raises(PlaneError) as caught:
                await use
            assert caught.value.code is Code.UNAVAILABLE
        assert [change async for change in here.watch()] == []

    async def test_cancelling_a_watcher_leaves_nothing(self, here: StateStore) -> None:
        before = asyncio.all_tasks()

        async def watch() -> None:
            async for _ in here.watch():
                waiting.set()

        for _ in range(5):
            waiting = asyncio.Event()
            task = asyncio.create_task(watch())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(30):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await here.put("a", b"1")

    async def test_many_watchers(self, here: StateStore, there: StateStore) -> None:
        async def watched() -> int:
            async with watching(there) as watch:
                count = 0
                while True:
                    match await told(watch):
                        case Snapshot(_, entries):
                            count += len(entries)
                        case Entry("end"):
                            return count
                        case _:
                            count += 1

        tasks = [asyncio.create_task(watched()) for _ in range(50)]
        for number in range(20):
            await here.put(f"k/{number}", b"")
        await asyncio.sleep(0.05)
        await here.put("end", b"")
        assert set(await asyncio.gather(*tasks)) == {20}

    async def test_what_cannot_be(self, here: StateStore) -> None:
        large = b"x" * (MAX_VALUE_BYTES + 1)
        for change, code in (
            (here.put("a/*", b""), Code.INVALID_ARGUMENT),
            (here.get(""), Code.INVALID_ARGUMENT),
            (here.delete("/a"), Code.INVALID_ARGUMENT),
            (here.list("a/b*"), Code.INVALID_ARGUMENT),
            (here.put("a", b"", ttl_s=0), Code.INVALID_ARGUMENT),
            (here.put("a", b"", ttl_s=float("nan")), Code.INVALID_ARGUMENT),
            (here.put("a", b"", expected=-1), Code.INVALID_ARGUMENT),
            (here.put("a", large), Code.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(PlaneError) as caught:
                await change
            assert caught.value.code is code
        with pytest.raises(PlaneError):
            here.watch("")
        await here.put("a", large[:-1])
