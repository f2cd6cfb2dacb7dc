"""The groups of the engine `zenoh:` keep the suite, and share the events of many nodes."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("zenoh")

from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.event_log_suite import publish
from tests.runtime.groups_suite import (
    EARLIEST,
    Batches,
    GroupsSuite,
    fill,
    letters,
    nothing_comes,
    status,
    take,
    tokens,
    until,
)
from tests.runtime.zenoh_network import ROOT, Network, Worker

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.engine import Engine
from protoplane_runtime.engines.groups import Delivery, GroupSettings
from protoplane_runtime.engines.interface import EventId, Gap, Start
from protoplane_runtime.engines.local.state import LocalState
from protoplane_runtime.engines.opening import open_engine
from protoplane_runtime.engines.zenoh.group_desk import GroupDesk
from protoplane_runtime.engines.zenoh.group_wire import (
    VERSION,
    Answer,
    Birth,
    Claim,
    Claimed,
    Hint,
    Join,
    Leave,
    decode_answer,
    decode_hint,
    decode_request,
    encode,
)
from protoplane_runtime.engines.zenoh.log import ZenohLog

pytestmark = pytest.mark.anyio


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with Network(tmp_path) as network:
        yield network


@asynccontextmanager
async def node(network: Network, name: str) -> AsyncGenerator[Engine]:
    engine = await open_engine(network.url_of(name))
    try:
        yield engine
    finally:
        await engine.close()


class TestZenohGroups(GroupsSuite):
    @pytest.fixture(autouse=True)
    async def in_network(self, network: Network) -> None:
        self.network = network

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Engine]:
        async with node(self.network, "one") as engine:
            yield engine

    @asynccontextmanager
    async def other(self, engine: Engine) -> AsyncGenerator[Engine]:
        async with node(self.network, "two") as other:
            yield other


def of(deliveries: list[Delivery]) -> list[str]:
    return [each.event.data.decode() for each in deliveries]


async def test_events_of_many_nodes_are_shared(network: Network) -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(node(network, name)) for name in "abc"]
        seen: dict[EventId, int] = {}
        ids: set[EventId] = set()
        order: dict[tuple[str, int], list[EventId]] = {}
        done = asyncio.Event()
        held = {engine.url: 0 for engine in engines}

        async def consume(engine: Engine) -> None:
            settings = GroupSettings(start=Start.EARLIEST, max_in_flight=7)
            async with aclosing(engine.groups.consume("g", ["a/*"], settings)) as batches:
                async for batch in batches:
                    found = [each for each in batch if isinstance(each, Delivery)]
                    held[engine.url] += len(found)
                    assert held[engine.url] <= 7
                    for each in found:
                        event = each.event
                        seen[event.id] = seen.get(event.id, 0) + 1
                        order.setdefault((event.key, event.id.epoch), []).append(event.id)
                    # Not all at a time, so that some of each node's are held meanwhile.
                    for each in found:
                        held[engine.url] -= 1
                        await engine.groups.acknowledge([each.token])
                    if ids <= seen.keys():
                        done.set()

        tasks = [asyncio.create_task(consume(engine)) for engine in engines[:2]]
        stack.callback(lambda: [task.cancel() for task in tasks])
        for number in range(20):
            ids.update(
                await asyncio.gather(
                    *(publish(engine.events, f"a/{number % 4}", durable=True) for engine in engines)
                )
            )
        done.clear()
        async with asyncio.timeout(30):
            while not ids <= seen.keys():
                await done.wait()
        assert seen == dict.fromkeys(ids, 1)
        assert all(each == sorted(each) for each in order.values())
        found = await until(
            lambda: status(engines[2]), lambda found: found.acknowledged == len(ids)
        )
        assert (found.delivered, found.pending, found.waiting, found.lag) == (60, 0, 0, 0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_killed_member_gives_back(network: Network) -> None:
    async with node(network, "one") as engine:
        ids = await fill(engine, ["a/1", "a/2", "a/3"])
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.runtime.groups_worker", network.url_of("killed")),
            *("hold", "3"),
            stdout=PIPE,
            cwd=ROOT,
        )
        try:
            assert worker.stdout is not None
            async with asyncio.timeout(30):
                for event_id in ids:
                    line = (await worker.stdout.readline()).decode()
                    assert line.split()[0] == str(event_id)
            assert (await status(engine)).pending == 3
            # The visibility time is an hour, so only the death of the process can end it.
            worker.send_signal(signal.SIGKILL)
            async with aclosing(engine.groups.consume("g", ["a/*"], EARLIEST)) as batches:
                found = await take(batches, 3)
                assert [(each.event.id, each.attempt) for each in found] == [
                    (each, 2) for each in ids
                ]
                await engine.groups.acknowledge(tokens(found))
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.communicate()


async def test_a_node_that_was_away_goes_on_where_it_was(network: Network) -> None:
    async with (
        node(network, "one") as engine,
        aclosing(engine.groups.consume("g", ["a"], EARLIEST)) as batches,
    ):
        async with node(network, "two") as two:
            for number in range(3):
                await publish(two.events, "a", f"two {number}", durable=True)
            [first] = await take(batches, 1)
            await engine.groups.acknowledge([first.token])
            [second] = await take(batches, 1)
        await publish(engine.events, "a", "one", durable=True)
        assert of(await take(batches, 1)) == ["one"]
        with pytest.raises(PlaneError) as caught:
            await engine.groups.acknowledge([second.token])
        assert caught.value.code is Code.UNAVAILABLE
        async with node(network, "two"):
            [again] = await take(batches, 1)
            assert (again.event.id, again.attempt) == (second.event.id, 2)
            await engine.groups.acknowledge([again.token])
            assert of(await take(batches, 1)) == ["two 2"]


async def test_a_killed_node_knows_who_holds_its_events(network: Network) -> None:
    settings = GroupSettings(start=Start.EARLIEST, visibility_s=3600)
    arguments = ("publish", network.url_of("killed"), "a")
    async with (
        node(network, "one") as engine,
        aclosing(engine.groups.consume("g", ["a"], settings)) as batches,
    ):
        async with Worker(*arguments, "2", "1") as worker:
            assert await worker.said() == "ready"
            worker.tell()
            assert await worker.said() == "2"
            [first] = await take(batches, 1)
            worker.process.send_signal(signal.SIGKILL)
            await worker.process.wait()
        async with Worker(*arguments, "0", "1") as worker:
            assert await worker.said() == "ready"

            async def acknowledged() -> bool:
                try:
                    await engine.groups.acknowledge([first.token])
                except PlaneError as error:
                    if error.code is not Code.UNAVAILABLE:
                        raise
                    return False
                return True

            await until(acknowledged, bool)
            [second] = await take(batches, 1)
            assert (second.event.json, second.attempt) == ('"1"', 1)
            await engine.groups.acknowledge([second.token])
        found = await status(engine)
        assert (found.pending, found.acknowledged) == (0, 0)


async def begin(engine: Engine, settings: GroupSettings) -> Batches:
    """A group that has begun."""
    batches = engine.groups.consume("g", ["a"], settings)
    waiting = asyncio.ensure_future(anext(batches))
    await until(engine.groups.list, bool)
    waiting.cancel()
    await asyncio.wait([waiting])
    return batches


async def test_a_group_has_the_events_of_who_joins_later(network: Network) -> None:
    async with node(network, "one") as engine:
        await publish(engine.events, "a", "before", durable=True)
        await (await begin(engine, GroupSettings())).aclose()
        # Nobody consumes when it comes.
        async with node(network, "two") as two:
            await publish(two.events, "a", "later", durable=True)
            async with aclosing(two.groups.consume("g", ["a"])) as batches:
                [one] = await take(batches, 1)
                assert of([one]) == ["later"]
                await two.groups.acknowledge([one.token])
                async with node(network, "three") as three:
                    await publish(three.events, "a", "last", durable=True)
                    [one] = await take(batches, 1)
                    assert of([one]) == ["last"]
                    await engine.groups.acknowledge([one.token])


async def test_a_place_in_one_log_is_a_place_in_all(network: Network) -> None:
    async with node(network, "one") as one, node(network, "two") as two:
        reader = one.events.read(["a"])
        ids: list[EventId] = []
        for number in range(4):
            for engine in (two, one):
                await publish(engine.events, "a", f"{number}", durable=True)
                async with asyncio.timeout(30):
                    ids += [each.id for each in await anext(reader) if not isinstance(each, Gap)]
        # Behind the second of each, as they came to the first node.
        settings = GroupSettings(start=ids[3], ordered=False)
        async with aclosing(two.groups.consume("g", ["a"], settings)) as batches:
            assert sorted(of(await take(batches, 4))) == ["2", "2", "3", "3"]
            await two.groups.reset("g", ids[5])
            assert sorted(of(await take(batches, 2))) == ["3", "3"]
        strange = EventId(ids[0].epoch + 1, 1)
        with pytest.raises(PlaneError) as caught:
            await one.groups.reset("g", strange)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert await one.groups.delete("g")
        assert await two.groups.list() == []


async def test_a_group_was_made_anew_meanwhile(network: Network) -> None:
    async with node(network, "one") as engine:
        async with node(network, "two") as two:
            await publish(two.events, "a", "old", durable=True)
            await publish(two.events, "b", "new", durable=True)
            await (await begin(two, EARLIEST)).aclose()
        assert await engine.groups.delete("g")
        async with aclosing(engine.groups.consume("g", ["b"], EARLIEST)) as batches:
            await nothing_comes(batches)
        async with aclosing(engine.groups.consume("g", ["b"], EARLIEST)) as batches:
            waiting = asyncio.ensure_future(take(batches, 1))
            async with node(network, "two") as two:
                assert of(await waiting) == ["new"]
                with pytest.raises(PlaneError) as caught:
                    await anext(two.groups.consume("g", ["a"]))
                assert caught.value.code is Code.FAILED_PRECONDITION


async def test_ephemeral_events_are_not_delivered(network: Network) -> None:
    async with node(network, "one") as engine:
        settings = GroupSettings(start=Start.EARLIEST, ordered=False)
        async with aclosing(engine.groups.consume("g", ["a"], settings)) as batches:
            waiting = asyncio.ensure_future(take(batches, 1))
            await publish(engine.events, "a")
            later = await publish(engine.events, "a", durable=True)
            [one] = await waiting
            assert one.event.id == later


async def test_dead_letters_are_seen_by_all_nodes(network: Network) -> None:
    async with node(network, "one") as one, node(network, "two") as two:
        await fill(one, ["a"])
        settings = GroupSettings(start=Start.EARLIEST, max_deliveries=1)
        async with aclosing(two.groups.consume("g", ["a"], settings)) as batches:
            [each] = await take(batches, 1)
            await two.groups.negative_acknowledge([each.token], reason="bad")
            [letter] = await until(lambda: letters(two), bool)
            assert (letter.letter.id, letter.letter.reason) == (str(each.event.id), "bad")


@pytest.fixture
async def log(network: Network) -> AsyncIterator[ZenohLog]:
    log = await network.log("desk")
    yield log
    await log.close()


@pytest.fixture
async def hints() -> list[tuple[str, Hint]]:
    return []


@pytest.fixture
async def desk(log: ZenohLog, hints: list[tuple[str, Hint]]) -> AsyncIterator[GroupDesk]:
    state = await LocalState.open(log.folder)
    desk = GroupDesk(log, state, lambda member, hint: hints.append((member, hint)))
    yield desk
    await desk.close()
    await state.close()


JOIN = Join("g", "m", "c", Birth(("a",), 1, earliest=True), 30.0, 5, 10, True)


async def something(desk: GroupDesk, number: int) -> Claimed:
    """Something, as soon as there is something."""
    async with asyncio.timeout(30):
        while not (found := await claimed(desk, number)).deliveries:
            number += 1
            await asyncio.sleep(0.01)
    return found


async def claimed(desk: GroupDesk, number: int, most: int = 10) -> Claimed:
    found = (await desk.do(Claim("m", "c", number, most))).ok().claimed
    assert found is not None
    return found


async def test_an_answer_that_was_lost_is_given_again(
    log: ZenohLog, desk: GroupDesk, hints: list[tuple[str, Hint]]
) -> None:
    await publish(log, "a", durable=True)
    (await desk.do(JOIN)).ok()
    async with asyncio.timeout(30):
        while not hints:  # noqa: ASYNC110  # a hint has no event
            await asyncio.sleep(0.01)
    assert (hints[-1][0], hints[-1][1].consumer, hints[-1][1].more) == ("m", "c", True)
    first = await claimed(desk, 1)
    assert [each.attempt for each in first.deliveries] == [1]
    assert await claimed(desk, 1) == first
    assert (await claimed(desk, 2)).deliveries == ()
    # What it had not heard of when it left, it has not seen.
    (await desk.do(JOIN)).ok()
    assert [each.attempt for each in (await something(desk, 1)).deliveries] == [2]
    assert (await desk.do(Leave("m", "c", 0))).done
    (await desk.do(JOIN)).ok()
    assert [each.attempt for each in (await something(desk, 1)).deliveries] == [2]


async def test_who_is_not_known_joins_again(desk: GroupDesk) -> None:
    assert (await desk.do(Claim("m", "c", 1, 1))).unknown
    (await desk.do(JOIN)).ok()
    assert (await claimed(desk, 1)).deliveries == ()
    await desk.drop("m")
    assert (await desk.do(Claim("m", "c", 2, 1))).unknown


def test_messages_travel() -> None:
    answer = Answer(
        claimed=Claimed(1, 2, more=True, gaps=(Gap(EventId(1, 2), None, EventId(1, 3)),))
    )
    assert decode_answer(encode(answer)) == answer
    assert decode_request(encode(JOIN)) == JOIN
    hint = Hint("o-1", "c", 1, 2, more=False)
    assert decode_hint(encode(hint)) == hint


@given(st.binary(max_size=64), st.booleans())
def test_what_is_no_message_is_refused(message: bytes, known: bool) -> None:
    for decode in (decode_answer, decode_request, decode_hint):
        try:
            found = decode(bytes((VERSION,)) + message if known else message)
        except ValueError:
            continue
        assert decode(encode(found)) == found
