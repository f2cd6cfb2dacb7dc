"""The event plane through every door, by its generated client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

import pytest
from tests.server.planes.conftest import Offered

from forge.captioner.v1 import CaptionFinished
from protoplane.v1 import (
    AckRequest,
    Event,
    EventForm,
    EventPlaneClient,
    ExtendRequest,
    NackRequest,
    Publication,
    PublishRequest,
    PublishStreamRequest,
    SubscribeRequest,
    SubscribeResponse,
)
from protoplane_base import Code, Duration, PlaneError, Timestamp

pytestmark = pytest.mark.anyio

TYPE = "forge.captioner.v1.CaptionFinished"
UNKNOWN = "mill.v1.Ground"


@pytest.fixture
def client(offered: Offered) -> EventPlaneClient:
    return EventPlaneClient(offered.plane)


def finished(words: int, key: str = "forge/captions/1", **more: Any) -> PublishRequest:
    data = CaptionFinished(request_id="1", words=words).to_bytes()
    return PublishRequest(key=key, type=TYPE, data=data, **more)


async def publish(client: EventPlaneClient, event: PublishRequest) -> str:
    return (await client.publish(event, timeout_s=20)).id


class Follower:
    """A subscription that tells its events one by one; use it with ``async with``."""

    def __init__(self, client: EventPlaneClient, *expressions: str, **more: Any) -> None:
        request = SubscribeRequest(expressions=[*expressions], **more)
        self._answers: Any = client.subscribe(request, timeout_s=120)
        self._ready: list[Event] = []
        self.first: SubscribeResponse | None = None
        self.gaps: list[Any] = []

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(30):
            self.first = await anext(self._answers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._answers.aclose()

    async def take(self, count: int) -> list[Event]:
        async with asyncio.timeout(30):
            while len(self._ready) < count:
                answer: SubscribeResponse = await anext(self._answers)
                if answer.gap is not None:
                    self.gaps.append(answer.gap)
                self._ready += answer.events
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken


async def test_published_here_received_there(client: EventPlaneClient) -> None:
    async with Follower(client, "forge/**", "mill/*") as follower:
        first = await publish(client, finished(3))
        await publish(client, finished(0, key="bakery/1"))
        second = await publish(client, finished(4, key="mill/1"))
        one, two = await follower.take(2)
    assert (one.id, one.key, one.type) == (first, "forge/captions/1", TYPE)
    assert (two.id, two.key) == (second, "mill/1")
    assert CaptionFinished.from_bytes(one.data or b"").words == 3
    assert one.time is not None
    assert (one.token, one.attempt) == ("", 0)


async def test_a_component_s_own_events_come_too(
    client: EventPlaneClient, offered: Offered
) -> None:
    async with Follower(client, "forge/**", form=EventForm.EVENT_FORM_JSON) as follower:
        await offered.server.events.publish("forge/x", TYPE, b"", '{"words":7}')
        [event] = await follower.take(1)
    assert (event.data, event.json_text) == (None, '{"words":7}')


async def test_json_and_bytes_are_made_of_each_other(client: EventPlaneClient) -> None:
    told = PublishRequest(key="forge/captions/2", type=TYPE, json_text='{"requestId": "2"}')
    async with (
        Follower(client, "forge/**") as plain,
        Follower(client, "forge/**", form=EventForm.EVENT_FORM_JSON) as as_json,
    ):
        await publish(client, told)
        await publish(client, finished(9))
        assert [CaptionFinished.from_bytes(each.data or b"") for each in await plain.take(2)] == [
            CaptionFinished(request_id="2"),
            CaptionFinished(request_id="1", words=9),
        ]
        assert [each.json_text for each in await as_json.take(2)] == [
            '{"requestId":"2"}',
            '{"requestId":"1","words":9}',
        ]


async def test_types_that_are_not_known_here(client: EventPlaneClient) -> None:
    async with Follower(client, "mill/**") as follower:
        told = PublishRequest(key="mill/1", type=UNKNOWN, json_text='{ "kilos":\n 3 }')
        await publish(client, told)
        await publish(client, told.model_copy(update={"data": b"\x08\x03"}))
        one, two = await follower.take(2)
    assert (one.data, one.json_text) == (None, '{"kilos":3}')
    assert (two.data, two.json_text) == (b"\x08\x03", None)


async def test_what_is_no_event(client: EventPlaneClient) -> None:
    for event in (
        PublishRequest(key="a//b", type=TYPE, json_text="{}"),
        PublishRequest(key="a", type=TYPE),
        PublishRequest(key="a", json_text="{}"),
        PublishRequest(key="a", type=TYPE, data=b"\xff"),
        PublishRequest(key="a", type=TYPE, json_text='{"wrods": 1}'),
        PublishRequest(key="a", type=UNKNOWN, data=b"\x08\x03"),
        PublishRequest(key="a", type=UNKNOWN, json_text="{"),
        PublishRequest(key="a", type=UNKNOWN),
        PublishRequest(key="a", type=TYPE, json_text="{}", publication=Publication(number=1)),
    ):
        with pytest.raises(PlaneError) as caught:
            await publish(client, event)
        assert caught.value.code is Code.INVALID_ARGUMENT, event


async def test_a_publication_is_appended_once(client: EventPlaneClient) -> None:
    named = finished(1, publication=Publication(publisher="me", number=7))
    first = await publish(client, named)
    assert await publish(client, named) == first
    assert await publish(client, finished(1, durable=False)) != first


async def test_many_events_in_one_stream(client: EventPlaneClient) -> None:
    count = 1000

    async def events() -> AsyncIterator[PublishStreamRequest]:
        for number in range(count):
            yield PublishStreamRequest(event=finished(number))

    async with Follower(client, "forge/**") as follower:
        answers = client.publish_stream(events(), timeout_s=60)
        ids = [answer.id async for answer in answers]
        got = await follower.take(count)
    assert [event.id for event in got] == ids
    assert [CaptionFinished.from_bytes(event.data or b"").words for event in got] == [*range(count)]


async def test_a_stream_ends_with_the_first_that_is_refused(client: EventPlaneClient) -> None:
    async def events() -> AsyncIterator[PublishStreamRequest]:
        yield PublishStreamRequest(event=finished(1))
        yield PublishStreamRequest(event=finished(2))
        yield PublishStreamRequest(event=finished(3, key="*"))

    answers = client.publish_stream(events(), timeout_s=20)
    accepted = [(await anext(answers)).id for _ in range(2)]
    assert len(set(accepted)) == 2
    with pytest.raises(PlaneError) as caught:
        await anext(answers)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_where_to_begin(client: EventPlaneClient) -> None:
    ids = [await publish(client, finished(number)) for number in range(4)]
    async with Follower(client, "forge/**", after="earliest") as follower:
        assert [event.id for event in await follower.take(4)] == ids
    async with Follower(client, "forge/**", after=ids[1]) as follower:
        assert follower.first == SubscribeResponse(position=ids[1])
        [two, three] = await follower.take(2)
        assert [two.id, three.id] == ids[2:]
    async with Follower(client, "forge/**", since=three.time) as follower:
        assert (await follower.take(1))[0].id in ids
    async with Follower(client, "forge/**", since=Timestamp.now()) as follower:
        later = await publish(client, finished(4))
        assert [event.id for event in await follower.take(1)] == [later]


async def test_the_newest_of_each_key_alone(client: EventPlaneClient) -> None:
    for number in range(6):
        await publish(client, finished(number, key=f"forge/captions/{number % 2}"))
    async with Follower(client, "forge/**", after="earliest", latest=True) as follower:
        got = await follower.take(2)
    assert {CaptionFinished.from_bytes(event.data or b"").words for event in got} == {4, 5}


async def test_what_is_lost_is_told(client: EventPlaneClient) -> None:
    here = await publish(client, finished(1))
    epoch, _, sequence = here.partition("-")
    async with Follower(client, "forge/**", after=f"{int(epoch) - 1}-{sequence}") as follower:
        await follower.take(1)
        [gap] = follower.gaps
    assert gap.asked == f"{int(epoch) - 1}-{sequence}"
    assert (gap.oldest, gap.next) == (here, here)


async def test_what_is_no_subscription(client: EventPlaneClient) -> None:
    wrongs: list[dict[str, Any]] = [
        {"expressions": []},
        {"expressions": ["a//b"]},
        {"expressions": ["a"], "after": "yesterday"},
        {"expressions": ["a"], "group": "no name"},
        {"expressions": ["a"], "group": "g", "latest": True},
        {"expressions": ["a"], "group": "g", "max_deliveries": 0},
    ]
    for wrong in wrongs:
        answers = client.subscribe(SubscribeRequest(**wrong), timeout_s=20)
        with pytest.raises(PlaneError) as caught:
            assert [answer async for answer in answers] == []
        assert caught.value.code is Code.INVALID_ARGUMENT, wrong


async def test_members_of_a_group_share_its_events(client: EventPlaneClient) -> None:
    for number in range(6):
        await publish(client, finished(number, key=f"forge/captions/{number}"))
    start: dict[str, Any] = {"group": "workers", "after": "earliest", "max_in_flight": 3}
    async with Follower(client, "forge/**", **start) as one:
        mine = await one.take(3)
        async with Follower(client, "forge/**", **start) as two:
            others = await two.take(3)
            keys = {event.key for event in [*mine, *others]}
            assert keys == {f"forge/captions/{number}" for number in range(6)}
            assert {event.attempt for event in mine} == {1}
            tokens = [event.token for event in [*mine, *others]]
            await client.extend(ExtendRequest(tokens=tokens, visibility=Duration(60)), timeout_s=20)
            await client.ack(AckRequest(tokens=tokens), timeout_s=20)
            later = await publish(client, finished(7, key="forge/captions/7"))
            ready = {asyncio.ensure_future(each.take(1)) for each in (one, two)}
            done, waiting = await asyncio.wait(ready, return_when=asyncio.FIRST_COMPLETED)
            for each in waiting:
                each.cancel()
            await asyncio.wait(ready)
            assert [event.id for each in done for event in each.result()] == [later]


async def test_what_is_given_back_comes_again(client: EventPlaneClient) -> None:
    await publish(client, finished(1))
    async with Follower(client, "forge/**", group="workers", after="earliest") as follower:
        [event] = await follower.take(1)
        await client.nack(NackRequest(tokens=[event.token], reason="no"), timeout_s=20)
        [again] = await follower.take(1)
        assert (again.id, again.attempt) == (event.id, 2)
        await client.ack(AckRequest(tokens=[again.token]), timeout_s=20)
    with pytest.raises(PlaneError) as caught:
        await client.ack(AckRequest(tokens=["no token"]), timeout_s=20)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_who_leaves_gives_back(client: EventPlaneClient) -> None:
    event_id = await publish(client, finished(1))
    group: dict[str, Any] = {"group": "workers", "after": "earliest"}
    async with Follower(client, "forge/**", **group) as follower:
        await follower.take(1)
    async with Follower(client, "forge/**", **group) as follower:
        [again] = await follower.take(1)
        assert again.id == event_id
