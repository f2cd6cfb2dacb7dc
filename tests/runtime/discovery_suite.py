"""What every driver of `Discovery` keeps; derive from the suite and define `open`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import (
    Change,
    Changed,
    Discovery,
    Instance,
    Joined,
    Left,
)

ONE = Instance(
    "forge/captioner/one",
    endpoints=("link+unix:/run/one.sock", "grpc://127.0.0.1:50051"),
    services=("forge.captioner.v1.CaptionerService",),
    protocols=("sse",),
    metadata={"model": "ünal"},
    load=0.25,
    started_s=1_000.5,
)
TWO = replace(ONE, name="forge/captioner/two", started_s=1_001.0)
ROUTER = Instance("forge/router/one", started_s=1_002.0)


class Watch:
    """What a watcher was told, and what it makes of that."""

    def __init__(self, changes: AsyncIterator[Sequence[Change]]) -> None:
        self._changes = changes
        self.told: list[Change] = []
        self.there: dict[str, Instance] = {}

    async def next(self) -> list[Change]:
        """The next batch."""
        async with asyncio.timeout(30):
            batch = await anext(self._changes)
        for change in batch:
            match change:
                case Joined(instance):
                    assert instance.name not in self.there
                    self.there[instance.name] = instance
                case Changed(instance):
                    assert self.there[instance.name] != instance
                    self.there[instance.name] = instance
                case Left(instance):
                    del self.there[instance.name]
        self.told += batch
        return list(batch)

    async def until(self, done: Callable[[dict[str, Instance]], bool]) -> None:
        """Wait until the instances that are there are as wanted."""
        while not done(self.there):
            await self.next()

    async def names(self, *names: str) -> None:
        """Wait until these instances are there and no others."""
        await self.until(lambda there: set(there) == set(names))


class DiscoverySuite:
    """The cases; what one handle registers, others of the same engine see."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def open(self) -> Callable[[], Discovery]:
        """Opens a handle; every call gives one that sees the same instances."""
        raise NotImplementedError

    @pytest.fixture
    async def handles(self, open: Callable[[], Any]) -> AsyncIterator[Callable[[], Any]]:  # noqa: A002
        """Opens handles that are closed at the end."""
        opened: list[Discovery] = []

        def another() -> Discovery:
            opened.append(open())
            return opened[-1]

        yield another
        for each in opened:
            await each.close()

    @pytest.fixture
    def here(self, handles: Callable[[], Discovery]) -> Discovery:
        return handles()

    @pytest.fixture
    def there(self, handles: Callable[[], Discovery]) -> Discovery:
        return handles()

    async def test_registers_for_as_long_as_the_block_runs(
        self, here: Discovery, there: Discovery
    ) -> None:
        async with here.register(ONE) as registration:
            assert registration.instance == ONE
            assert list(await there.instances()) == [ONE]
            assert list(await here.instances()) == [ONE]
        assert list(await there.instances()) == []

    async def test_leaves_when_the_block_fails(self, here: Discovery, there: Discovery) -> None:
        with pytest.raises(ZeroDivisionError):
            async with here.register(ONE):
                raise ZeroDivisionError
        assert list(await there.instances()) == []

    async def test_by_path(self, here: Discovery, there: Discovery) -> None:
        async with AsyncExitStack() as stack:
            for each in (ROUTER, TWO, ONE):
                await stack.enter_async_context(here.register(each))
            for path, expected in {
                None: [ONE, TWO, ROUTER],
                "forge": [ONE, TWO, ROUTER],
                "forge/captioner": [ONE, TWO],
                "forge/captioner/two": [TWO],
                "forge/capt": [],
                "other": [],
            }.items():
                assert list(await there.instances(path)) == expected

    async def test_namespaces_keep_apart(self, here: Discovery, there: Discovery) -> None:
        other = replace(ONE, namespace="test")
        async with here.register(ONE), here.register(other):
            assert list(await there.instances()) == [ONE]
            assert list(await there.instances("forge", namespace="test")) == [other]
            assert len(await there.instances(namespace=None)) == 2
            async with aclosing(there.watch(namespace="test")) as changes:
                assert await Watch(changes).next() == [Joined(other)]

    async def test_a_watch_begins_with_who_is_there(
        self, here: Discovery, there: Discovery
    ) -> None:
        async with aclosing(there.watch("forge")) as changes:
            watch = Watch(changes)
            assert await watch.next() == []
            async with here.register(ONE):
                assert await watch.next() == [Joined(ONE)]
                async with aclosing(there.watch("forge")) as later:
                    assert await Watch(later).next() == [Joined(ONE)]
            assert await watch.next() == [Left(ONE)]

    async def test_a_watch_sees_its_path_only(self, here: Discovery, there: Discovery) -> None:
        async with aclosing(there.watch("forge/captioner")) as changes:
            watch = Watch(changes)
            await watch.next()
            async with here.register(ROUTER), here.register(ONE):
                assert await watch.next() == [Joined(ONE)]

    async def test_updates_are_seen(self, here: Discovery, there: Discovery) -> None:
        async with aclosing(there.watch()) as changes:
            watch = Watch(changes)
            async with here.register(ONE) as registration:
                await watch.names(ONE.name)
                await registration.update(load=0.75, metadata={"model": "b"})
                now = replace(ONE, load=0.75, metadata={"model": "b"})
                await watch.until(lambda there: there[ONE.name] == now)
                assert registration.instance == now
                await registration.update(endpoints=["http://h:1"])
                now = replace(now, endpoints=("http://h:1",))
                await watch.until(lambda there: there[ONE.name] == now)
                assert list(await there.instances()) == [now]
                with pytest.raises(PlaneError) as caught:
                    await registration.update(load=-1)
                assert caught.value.code is Code.INVALID_ARGUMENT
                assert registration.instance == now
            assert {type(change) for change in watch.told} == {Joined, Changed}
            with pytest.raises(PlaneError) as caught:
                await registration.update(load=0)
            assert caught.value.code is Code.UNAVAILABLE

    async def test_a_name_is_there_once(self, here: Discovery, there: Discovery) -> None:
        async with here.register(ONE):
            for handle in (here, there):
                with pytest.raises(PlaneError) as caught:
                    async with handle.register(replace(ONE, load=1.0)):
                        pass
                assert caught.value.code is Code.ALREADY_EXISTS
            assert list(await there.instances()) == [ONE]
        async with there.register(TWO), there.register(ONE):
            assert len(await here.instances()) == 2

    async def test_one_that_comes_again_left_first(self, here: Discovery, there: Discovery) -> None:
        again = replace(ONE, started_s=ONE.started_s + 1)
        async with aclosing(there.watch()) as changes:
            watch = Watch(changes)
            async with here.register(ONE):
                await watch.names(ONE.name)
            async with here.register(again):
                await watch.until(lambda there: there.get(ONE.name) == again)
            assert watch.told == [Joined(ONE), Left(ONE), Joined(again)]

    async def test_a_slow_watcher_sees_how_things_are(
        self, here: Discovery, there: Discovery
    ) -> None:
        async with aclosing(there.watch()) as changes:
            watch = Watch(changes)
            await watch.next()
            for _ in range(3):
                async with here.register(TWO) as registration:
                    for load in range(10):
                        await registration.update(load=float(load))
            async with here.register(ONE) as registration:
                for load in range(10):
                    await registration.update(load=float(load))
                await watch.until(
                    lambda there: set(there) == {ONE.name} and there[ONE.name].load == 9
                )
                assert len(watch.told) < 40

    async def test_many_watchers(self, here: Discovery, there: Discovery) -> None:
        async def watched() -> None:
            async with aclosing(there.watch()) as changes:
                await Watch(changes).names(ONE.name, TWO.name)

        tasks = [asyncio.create_task(watched()) for _ in range(50)]
        async with here.register(ONE):
            await asyncio.sleep(0.01)
            async with here.register(TWO):
                await asyncio.gather(*tasks)

    async def test_cancelling_a_watcher_leaves_nothing(
        self, here: Discovery, there: Discovery
    ) -> None:
        before = asyncio.all_tasks()

        async def watch() -> None:
            async for _ in there.watch():
                waiting.set()

        for _ in range(5):
            waiting = asyncio.Event()
            task = asyncio.create_task(watch())
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # An iterator that was dropped is closed by the loop, in its own time.
        async with asyncio.timeout(30):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        async with here.register(ONE):
            assert list(await there.instances()) == [ONE]

    async def test_cancelling_a_registration_leaves_nothing(
        self, here: Discovery, there: Discovery
    ) -> None:
        async def register() -> None:
            async with here.register(ONE):
                await asyncio.Event().wait()

        for turns in range(12):
            task = asyncio.create_task(register())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert list(await there.instances()) == []

    async def test_closing_ends_watches_and_registrations(
        self, here: Discovery, there: Discovery
    ) -> None:
        async with aclosing(here.watch()) as changes:
            watch = Watch(changes)
            async with here.register(ONE):
                await watch.names(ONE.name)
                await here.close()
                await here.close()
                with pytest.raises(StopAsyncIteration):
                    await watch.until(lambda there: False)
                for use in (here.instances(), here.register(TWO).__aenter__()):
                    with pytest.raises(PlaneError) as caught:
                        await use
                    assert caught.value.code is Code.UNAVAILABLE
        assert [batch async for batch in here.watch()] == []

    @pytest.mark.parametrize("path", ["", "/forge", "forge//a", "forge/*", "a b"])
    async def test_bad_paths(self, here: Discovery, path: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await here.instances(path)
        assert caught.value.code is Code.INVALID_ARGUMENT
        with pytest.raises(PlaneError):
            here.watch(path)
        with pytest.raises(PlaneError):
            here.watch(namespace="a/b")
