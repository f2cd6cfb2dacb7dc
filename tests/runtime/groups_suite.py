"""What the consumer groups of every engine do; the tests of an engine derive from `GroupsSuite`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

import pytest
from msgspec.structs import replace
from tests.runtime.event_log_suite import publish

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.dead_letters import Letter, dead_letters, redrive
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import Delivery, GroupSettings, GroupStatus
from protoplane_runtime.engines.interface import EventId, Gap, Start

_T = TypeVar("_T")
Batches = AsyncGenerator[Sequence[Delivery | Gap], None]

EARLIEST = GroupSettings(start=Start.EARLIEST)
SHORT = GroupSettings(start=Start.EARLIEST, visibility_s=0.2)


async def take(batches: Batches, count: int) -> list[Delivery]:
    """The next deliveries, which must come without a gap."""
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            for item in await anext(batches):
                assert isinstance(item, Delivery)
                found.append(item)
    assert len(found) == count
    return found


async def nothing_comes(batches: Batches) -> None:
    """Make sure that there is nothing now; it leaves the consumer."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await anext(batches)


async def until(check: Callable[[], Awaitable[_T]], wanted: Callable[[_T], bool]) -> _T:
    async with asyncio.timeout(30):
        while not wanted(found := await check()):  # noqa: ASYNC110  # what is asked has no event
            await asyncio.sleep(0.02)
    return found


async def status(engine: Engine, group: str = "g") -> GroupStatus:
    [found] = [each for each in await engine.groups.list() if each.name == group]
    return found


async def letters(engine: Engine, group: str = "g") -> list[Letter]:
    return [each async for each in dead_letters(engine.events, group)]


def tokens(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.token for each in deliveries]


async def fill(engine: Engine, keys: Sequence[str]) -> list[EventId]:
    return [await publish(engine.events, key, key, durable=True) for key in keys]


class GroupsSuite:
    """The cases; `opened` opens an engine, `other` what another process would open of it."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Engine]:
        raise NotImplementedError
        yield  # type: ignore[unreachable]  # an override yields

    @asynccontextmanager
    async def other(self, engine: Engine) -> AsyncGenerator[Engine]:
        raise NotImplementedError
        yield  # type: ignore[unreachable]  # an override yields

    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with self.opened() as engine:
            yield engine

    async def test_events_are_delivered_and_acknowledged_once(self, engine: Engine) -> None:
        ids = await fill(engine, ["a/0", "b/0", "a/1"])
        async with aclosing(engine.groups.consume("g", ["a/*"], EARLIEST)) as batches:
            found = await take(batches, 2)
            assert [each.event.id for each in found] == [ids[0], ids[2]]
            assert [each.attempt for each in found] == [1, 1]
            assert found[0].event.data == b"a/0"
            assert (await status(engine)).pending == 2
            await engine.groups.acknowledge(tokens(found))
            await engine.groups.acknowledge(tokens(found))
            [later] = await fill(engine, ["a/2"])
            [third] = await take(batches, 1)
            assert third.event.id == later
            await engine.groups.acknowledge([third.token])
        found_status = await status(engine)
        assert found_status.position == later
        assert (found_status.pending, found_status.waiting) == (0, 0)
        assert (found_status.delivered, found_status.acknowledged) == (3, 3)
        assert (found_status.redelivered, found_status.dead_lettered) == (0, 0)
        async with aclosing(engine.groups.consume("g", ["a/*"], EARLIEST)) as batches:
            await nothing_comes(batches)

    async def test_a_new_group_begins_where_it_is_told(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "a", "a"])
        async with AsyncExitStack() as stack:

            async def first(name: str, start: EventId | Start) -> Batches:
                settings = GroupSettings(start=start, ordered=False)
                batches = engine.groups.consume(name, ["a"], settings)
                return await stack.enter_async_context(aclosing(batches))

            earliest = await first("earliest", Start.EARLIEST)
            assert [each.event.id for each in await take(earliest, 3)] == ids
            after = await first("after", ids[1])
            assert [each.event.id for each in await take(after, 1)] == ids[2:]
            now = await first("now", Start.NOW)
            taking = asyncio.create_task(take(now, 1))
            await until(engine.groups.list, lambda found: len(found) == 3)
            [later] = await fill(engine, ["a"])
            assert [each.event.id for each in await taking] == [later]

    async def test_events_of_a_key_wait_for_the_earlier_ones(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "b", "a", "a", "b"])
        async with aclosing(engine.groups.consume("g", ["**"], EARLIEST)) as batches:
            found = await take(batches, 2)
            assert [each.event.id for each in found] == ids[:2]
            await engine.groups.acknowledge([found[1].token])
            [second] = await take(batches, 1)
            assert second.event.id == ids[4]
            await engine.groups.negative_acknowledge([found[0].token])
            [again] = await take(batches, 1)
            assert (again.event.id, again.attempt) == (ids[0], 2)
            await engine.groups.acknowledge([again.token])
            [third] = await take(batches, 1)
            assert third.event.id == ids[2]

    async def test_members_share_the_events(self, engine: Engine) -> None:
        async with self.other(engine) as other, AsyncExitStack() as stack:
            seen: dict[EventId, int] = {}
            done = asyncio.Event()

            async def consume(member: Engine) -> int:
                count = 0
                settings = GroupSettings(start=Start.EARLIEST, max_in_flight=5)
                async with aclosing(member.groups.consume("g", ["a/*"], settings)) as batches:
                    async for batch in batches:
                        found = [each for each in batch if isinstance(each, Delivery)]
                        assert len(found) == len(batch) <= 5
                        for each in found:
                            seen[each.event.id] = seen.get(each.event.id, 0) + 1
                        count += len(found)
                        await member.groups.acknowledge(tokens(found))
                        if len(seen) == 60:
                            done.set()
                return count

            members = [engine, engine, other]
            tasks = [asyncio.create_task(consume(member)) for member in members]
            stack.callback(lambda: [task.cancel() for task in tasks])
            ids = await fill(engine, [f"a/{number % 20}" for number in range(60)])
            async with asyncio.timeout(30):
                await done.wait()
            await until(lambda: status(engine), lambda found: found.position == ids[-1])
            assert seen == dict.fromkeys(ids, 1)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def test_groups_do_not_share(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "b"])
        for name in ("one", "two"):
            async with aclosing(engine.groups.consume(name, ["*"], EARLIEST)) as batches:
                found = await take(batches, 2)
                assert [each.event.id for each in found] == ids

    async def test_a_visibility_time_passes(self, engine: Engine) -> None:
        [first] = await fill(engine, ["a"])
        async with aclosing(engine.groups.consume("g", ["a"], SHORT)) as batches:
            [one] = await take(batches, 1)
            [two] = await take(batches, 1)
            assert (two.event.id, two.attempt) == (first, 2)
            with pytest.raises(PlaneError) as caught:
                await engine.groups.acknowledge([one.token])
            assert caught.value.code is Code.FAILED_PRECONDITION
        assert (await status(engine)).redelivered >= 1

    async def test_a_visibility_time_is_set_anew(self, engine: Engine) -> None:
        await fill(engine, ["a"])
        settings = GroupSettings(start=Start.EARLIEST, visibility_s=3600)
        async with aclosing(engine.groups.consume("g", ["a"], settings)) as batches:
            [one] = await take(batches, 1)
            # From now on, whether that is longer or shorter.
            await engine.groups.extend([one.token], 0.2)
            [two] = await take(batches, 1)
            assert two.attempt == 2
            await engine.groups.extend([two.token], 3600)
            await engine.groups.acknowledge([two.token])

    async def test_a_redelivery_is_delayed(self, engine: Engine) -> None:
        await fill(engine, ["a"])
        async with aclosing(engine.groups.consume("g", ["a"], EARLIEST)) as batches:
            [one] = await take(batches, 1)
            await engine.groups.negative_acknowledge([one.token], delay_s=0.3)
            assert (await status(engine)).waiting == 1
            [two] = await take(batches, 1)
            assert two.attempt == 2

    async def test_a_consumer_that_leaves_gives_back(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "b"])
        async with self.other(engine) as other:
            leaving = engine.groups.consume("g", ["*"], EARLIEST)
            await take(leaving, 2)
            async with aclosing(other.groups.consume("g", ["*"], EARLIEST)) as batches:
                taking = asyncio.create_task(take(batches, 2))
                await asyncio.sleep(0)
                await leaving.aclose()
                found = await taking
                assert [(each.event.id, each.attempt) for each in found] == [
                    (each, 2) for each in ids
                ]

    async def test_what_it_never_saw_does_not_count(self, engine: Engine) -> None:
        await fill(engine, ["a"])
        leaving = engine.groups.consume("g", ["a"], EARLIEST)
        waiting = asyncio.ensure_future(anext(leaving))
        await until(engine.groups.list, lambda found: any(each.delivered for each in found))
        waiting.cancel()
        await asyncio.wait([waiting])
        await leaving.aclose()
        await until(lambda: status(engine), lambda found: found.pending == 0)
        async with aclosing(engine.groups.consume("g", ["a"], EARLIEST)) as batches:
            [one] = await take(batches, 1)
            # It may have been handed over just when it was cancelled.
            assert one.attempt <= 2

    async def test_an_event_becomes_a_dead_letter(self, engine: Engine) -> None:
        ids = await fill(engine, ["a/x", "a/x"])
        settings = GroupSettings(start=Start.EARLIEST, max_deliveries=2)
        async with aclosing(engine.groups.consume("g", ["**"], settings)) as batches:
            for attempt in (1, 2):
                [one] = await take(batches, 1)
                assert (one.event.id, one.attempt) == (ids[0], attempt)
                await engine.groups.negative_acknowledge([one.token], reason="no\n good")
            [other] = await take(batches, 1)
            assert other.event.id == ids[1]
            await engine.groups.acknowledge([other.token])
            found_status = await until(
                lambda: status(engine), lambda found: found.position == ids[1]
            )
            assert found_status.dead_lettered == 1
            [found] = await letters(engine)
            letter = found.letter
            assert (letter.group, letter.id, letter.key) == ("g", str(ids[0]), "a/x")
            assert (letter.data, letter.json_, letter.type) == (b"a/x", '"a/x"', "test.v1.Text")
            assert (letter.deliveries, letter.reason) == (2, "no good")
            # The letter itself is none of the group's events.
            [later] = await fill(engine, ["a/y"])
            [last] = await take(batches, 1)
            assert last.event.id == later
            async with aclosing(
                engine.groups.consume("undertaker", ["dead-letter/g/**"], EARLIEST)
            ) as buried:
                [one] = await take(buried, 1)
                assert one.event.key == "dead-letter/g/a/x"

    async def test_letters_of_keys_that_no_wildcard_matches(self, engine: Engine) -> None:
        one = await publish(engine.events, "@own/a", durable=True)
        settings = GroupSettings(start=Start.EARLIEST, max_deliveries=1)
        async with aclosing(engine.groups.consume("g", ["@own/*"], settings)) as batches:
            [given] = await take(batches, 1)
            assert given.event.id == one
            await engine.groups.negative_acknowledge([given.token])
            [letter] = await until(lambda: letters(engine), lambda found: len(found) == 1)
            assert letter.letter.key == "@own/a"

    async def test_dead_letters_are_redriven(self, engine: Engine) -> None:
        await fill(engine, ["a"])
        settings = GroupSettings(start=Start.EARLIEST, max_deliveries=1)
        async with aclosing(engine.groups.consume("g", ["**"], settings)) as batches:
            [one] = await take(batches, 1)
            await engine.groups.negative_acknowledge([one.token])
            await until(lambda: letters(engine), lambda found: len(found) == 1)
            assert await redrive(engine.events, "g") == 1
            [again] = await take(batches, 1)
            assert again.event.id > one.event.id
            assert replace(again.event, id=one.event.id, time_ns=one.event.time_ns) == one.event
            assert await letters(engine) == []
            assert await redrive(engine.events, "g") == 0

    async def test_another_process_acknowledges(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "a"])
        async with (
            self.other(engine) as other,
            aclosing(engine.groups.consume("g", ["a"], EARLIEST)) as batches,
        ):
            [one] = await take(batches, 1)
            await other.groups.acknowledge([one.token])
            [two] = await take(batches, 1)
            assert two.event.id == ids[1]
            await other.groups.extend([two.token], 60)
            await other.groups.negative_acknowledge([two.token])
            [again] = await take(batches, 1)
            assert (again.event.id, again.attempt) == (ids[1], 2)

    async def test_a_group_is_reset(self, engine: Engine) -> None:
        ids = await fill(engine, ["a", "b"])
        async with aclosing(engine.groups.consume("g", ["*"], EARLIEST)) as batches:
            found = await take(batches, 2)
            await engine.groups.acknowledge([found[0].token])
            await engine.groups.reset("g", Start.EARLIEST)
            again = await take(batches, 2)
            assert [each.event.id for each in again] == ids
            await engine.groups.acknowledge(tokens(again))
            await engine.groups.reset("g", ids[0])
            [last] = await take(batches, 1)
            assert last.event.id == ids[1]
        with pytest.raises(PlaneError) as caught:
            await engine.groups.reset("nobody", Start.NOW)
        assert caught.value.code is Code.NOT_FOUND

    async def test_a_group_is_deleted(self, engine: Engine) -> None:
        await fill(engine, ["a"])
        batches = engine.groups.consume("g", ["a"], EARLIEST)
        [one] = await take(batches, 1)
        await batches.aclose()
        assert await engine.groups.delete("g")
        assert not await engine.groups.delete("g")
        assert await engine.groups.list() == []
        with pytest.raises(PlaneError) as caught:
            await engine.groups.acknowledge([one.token])
        assert caught.value.code is Code.NOT_FOUND

    async def test_a_group_has_its_expressions(self, engine: Engine) -> None:
        async with aclosing(engine.groups.consume("g", ["a/*", "b"], EARLIEST)) as batches:
            await fill(engine, ["b"])
            await take(batches, 1)
            async with self.other(engine) as other:
                for member in (engine, other):
                    with pytest.raises(PlaneError) as caught:
                        await anext(member.groups.consume("g", ["c"]))
                    assert caught.value.code is Code.FAILED_PRECONDITION

    async def test_side_by_side_without_order(self, engine: Engine) -> None:
        ids = await fill(engine, ["a"] * 3)
        settings = GroupSettings(start=Start.EARLIEST, ordered=False)
        async with aclosing(engine.groups.consume("g", ["a"], settings)) as batches:
            found = await take(batches, 3)
            assert [each.event.id for each in found] == ids
            await engine.groups.acknowledge([found[2].token])
            assert (await status(engine)).position < ids[0]
            await engine.groups.acknowledge(tokens(found[:2]))
            await until(lambda: status(engine), lambda found: found.position == ids[2])

    async def test_no_more_than_its_share(self, engine: Engine) -> None:
        await fill(engine, [f"a/{number}" for number in range(5)])
        settings = GroupSettings(start=Start.EARLIEST, max_in_flight=2)
        async with aclosing(engine.groups.consume("g", ["a/*"], settings)) as batches:
            found = await take(batches, 2)
            assert (await status(engine)).pending == 2
            await engine.groups.acknowledge(tokens(found))
            await take(batches, 2)

    async def test_closing_ends_consumers(self, engine: Engine) -> None:
        batches = engine.groups.consume("g", ["a"], EARLIEST)
        waiting = asyncio.ensure_future(anext(batches))
        await until(engine.groups.list, bool)
        await engine.groups.close()
        await engine.groups.close()
        with pytest.raises(StopAsyncIteration):
            await waiting

    @pytest.mark.parametrize("group", ["", "a/b", "a b", "x" * 129, "ä"])
    async def test_bad_names(self, engine: Engine, group: str) -> None:
        with pytest.raises(PlaneError) as caught:
            engine.groups.consume(group, ["a"])
        assert caught.value.code is Code.INVALID_ARGUMENT
        for call in (engine.groups.delete(group), engine.groups.reset(group, Start.NOW)):
            with pytest.raises(PlaneError) as caught:
                await call
            assert caught.value.code is Code.INVALID_ARGUMENT

    async def test_bad_tokens(self, engine: Engine) -> None:
        for token in ("", "x", "g/1-2/3", "g/1-2/x/m", "g/1/1/m", "g h/1-2/1/m"):
            with pytest.raises(PlaneError) as caught:
                await engine.groups.acknowledge([token])
            assert caught.value.code is Code.INVALID_ARGUMENT
