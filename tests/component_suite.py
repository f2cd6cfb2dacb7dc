"""How a component behaves, whichever door and client its calls go through.

A test of a door or a client derives from `ComponentSuite` and defines `harness`; what it cannot
carry by its nature it overrides with a skip that says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from tests.parts import Parts

from forge.captioner.v1 import (
    CaptionerService,
    CaptionRequest,
    CollectRequest,
    ConverseRequest,
    ListStylesRequest,
    ListStylesResponse,
    Style,
)
from protoplane_base import CallOptions, Channel, Code, PlaneError
from protoplane_server import Limits, Options, Server

MAX_MESSAGE_BYTES = 1_000_000
METHODS = CaptionerService.spec.methods
CAPTION, LIST_STYLES = METHODS["Caption"], METHODS["ListStyles"]
COLLECT, CONVERSE = METHODS["Collect"], METHODS["Converse"]
KINDS = ["unary", "server_stream", "client_stream", "bidi_stream"]


@dataclass
class Harness:
    """A running component and a way to call it."""

    channel: Channel
    parts: Parts
    server: Server

    async def call(self, kind: str, *, send: list[Any] | None = None, **options: Any) -> list[Any]:
        """Make a call of some kind and give all its answers."""
        chosen = cast(CallOptions, options)
        match kind:
            case "unary":
                return [await self.channel.unary(LIST_STYLES, ListStylesRequest(), chosen)]
            case "server_stream":
                [request] = send or [CaptionRequest(prompt="one two three")]
                answers = self.channel.server_stream(CAPTION, request, chosen)
                return [answer async for answer in answers]
            case "client_stream":
                texts = send or [CollectRequest(text="a"), CollectRequest(text="b")]
                return [await self.channel.client_stream(COLLECT, each(texts), chosen)]
            case _:
                lines = send or [ConverseRequest(line="hello"), ConverseRequest(line="bye")]
                return [
                    answer
                    async for answer in self.channel.bidi_stream(CONVERSE, each(lines), chosen)
                ]

    async def serves_on(self) -> None:
        """Make sure that the component still answers."""
        assert len(await self.call("unary", timeout_s=5)) == 1


def component_options(**changes: Any) -> Options:
    """Options of a server that this suite can test."""
    options = Options(
        grpc=None,
        http=None,
        grace_s=5,
        limits=Limits(max_message_bytes=MAX_MESSAGE_BYTES),
    )
    return replace(options, **changes)


async def each(items: list[Any]) -> AsyncIterator[Any]:
    """The items, one by one."""
    for item in items:
        yield item


def do(what: str) -> dict[str, str]:
    """Metadata that asks `Parts` for something."""
    return {"x-do": what}


class ComponentSuite:
    """The behaviour cases; derive from it and define `harness`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        """Start `Parts` with `component_options` and connect to it."""
        raise NotImplementedError
        yield Harness()  # type: ignore[unreachable]  # noqa: PT022  # an override yields

    async def test_unary(self, harness: Harness) -> None:
        answer = await harness.channel.unary(LIST_STYLES, ListStylesRequest(), {})
        assert answer == ListStylesResponse(styles=[Style.STYLE_PLAIN, Style.STYLE_VIVID])

    async def test_server_stream(self, harness: Harness) -> None:
        answers = await harness.call("server_stream")
        assert [(answer.text, answer.index) for answer in answers] == [
            ("one", 0),
            ("two", 1),
            ("three", 2),
        ]

    async def test_server_stream_of_nothing(self, harness: Harness) -> None:
        assert await harness.call("server_stream", send=[CaptionRequest()]) == []

    async def test_client_stream(self, harness: Harness) -> None:
        [answer] = await harness.call("client_stream")
        assert (answer.text, answer.chunks) == ("ab", 2)

    async def test_bidi_stream(self, harness: Harness) -> None:
        answers = await harness.call("bidi_stream")
        assert [answer.line for answer in answers] == ["HELLO", "BYE"]

    async def test_bidi_stream_answers_before_the_next_request(self, harness: Harness) -> None:
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        async def requests() -> AsyncIterator[ConverseRequest]:
            while (line := await lines.get()) is not None:
                yield ConverseRequest(line=line)

        async with asyncio.timeout(30):
            answers = harness.channel.bidi_stream(CONVERSE, requests(), {})
            for line in ("ping", "pong"):
                lines.put_nowait(line)
                assert (await anext(answers)).line == line.upper()
            lines.put_nowait(None)
            assert await anext(answers, None) is None

    async def test_many_at_once(self, harness: Harness) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(harness.call(kind)) for kind in KINDS for _ in range(25)]
        assert all(task.result() for task in tasks)
        assert harness.server.dispatcher.open_calls == 0

    @pytest.mark.parametrize("kind", KINDS)
    async def test_error_with_details(self, harness: Harness, kind: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await harness.call(kind, metadata=do("fail"))
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert caught.value.message == "the camera is off; ünplugged"
        [detail] = caught.value.details
        assert (detail.reason, detail.domain) == ("CAMERA_OFF", "forge")
        assert dict(detail.metadata) == {"room": "12"}

    async def test_error_in_the_middle_of_a_stream(self, harness: Harness) -> None:
        request = CaptionRequest(prompt="one two")
        answers = harness.channel.server_stream(CAPTION, request, {"metadata": do("fail")})
        assert [(await anext(answers)).text for _ in range(2)] == ["one", "two"]
        with pytest.raises(PlaneError) as caught:
            await anext(answers)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert len(caught.value.details) == 1

    @pytest.mark.parametrize("kind", KINDS)
    async def test_crash_tells_nothing_of_the_inside(
        self, harness: Harness, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR), pytest.raises(PlaneError) as caught:
            await harness.call(kind, metadata=do("crash"))
        assert caught.value.code is Code.INTERNAL
        assert "1234" not in str(caught.value)
        assert "1234" in caplog.text
        await harness.serves_on()

    async def test_answer_of_the_wrong_type(self, harness: Harness) -> None:
        with pytest.raises(PlaneError) as caught:
            await harness.call("unary", metadata=do("wrong"))
        assert caught.value.code is Code.INTERNAL

    async def test_unknown_method(self, harness: Harness) -> None:
        method = replace(LIST_STYLES, name="Missing")
        with pytest.raises(PlaneError) as caught:
            await harness.channel.unary(method, ListStylesRequest(), {})
        assert caught.value.code is Code.UNIMPLEMENTED

    async def test_unknown_service(self, harness: Harness) -> None:
        method = replace(LIST_STYLES, service="forge.nowhere.v1.NowhereService")
        with pytest.raises(PlaneError) as caught:
            await harness.channel.unary(method, ListStylesRequest(), {})
        assert caught.value.code is Code.UNIMPLEMENTED

    @pytest.mark.parametrize("kind", KINDS)
    async def test_deadline_ends_the_call_and_its_handler(
        self, harness: Harness, kind: str
    ) -> None:
        for timeout_s in (0.3, 2, 10):
            async with asyncio.timeout(30):
                with pytest.raises(PlaneError) as caught:
                    await harness.call(kind, metadata=do("hang"), timeout_s=timeout_s)
            assert caught.value.code is Code.DEADLINE_EXCEEDED, caught.value
            # On a busy machine the time may be over before the handler has begun.
            if harness.parts.contexts:
                break
        await harness.parts.until(hanging=0, cancelled=1)

    async def test_handler_knows_its_deadline(self, harness: Harness) -> None:
        await harness.call("unary", timeout_s=30)
        await harness.call("unary")
        with_deadline, without = harness.parts.remaining_s
        assert with_deadline is not None
        assert 20 < with_deadline < 31  # gRPC rounds it up
        assert without is None

    @pytest.mark.parametrize("kind", KINDS)
    async def test_cancelling_reaches_the_handler(self, harness: Harness, kind: str) -> None:
        task = asyncio.create_task(harness.call(kind, metadata=do("hang")))
        await harness.parts.until(hanging=1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await harness.parts.until(hanging=0, cancelled=1)
        await eventually(lambda: harness.server.dispatcher.open_calls == 0)

    async def test_leaving_a_stream_reaches_the_handler(self, harness: Harness) -> None:
        request = CaptionRequest(prompt="one two")
        answers: Any = harness.channel.server_stream(CAPTION, request, {"metadata": do("hang")})
        async with aclosing(answers):
            assert (await anext(answers)).text == "one"
            await harness.parts.until(hanging=1)
        await harness.parts.until(hanging=0, cancelled=1)
        await eventually(lambda: harness.server.dispatcher.open_calls == 0)

    async def test_requests_that_fail_reach_the_handler(self, harness: Harness) -> None:
        async def requests() -> AsyncIterable[CollectRequest]:
            yield CollectRequest(text="a")
            raise LookupError("no more text")

        with pytest.raises(LookupError, match="no more text"):
            await harness.channel.client_stream(COLLECT, requests(), {})
        await eventually(lambda: harness.server.dispatcher.open_calls == 0)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_metadata_reaches_the_handler(self, harness: Harness, kind: str) -> None:
        sent = {"x-tenant": "forge, unit 7", "x-trace-bin": bytes(range(256))}
        await harness.call(kind, metadata=sent)
        [context] = harness.parts.contexts
        assert {name: context.metadata[name] for name in sent} == sent
        assert context.peer

    async def test_caller_names_its_call(self, harness: Harness) -> None:
        await harness.call("unary", metadata={"x-request-id": "call-7"})
        await harness.call("unary")
        named, unnamed = (context.request_id for context in harness.parts.contexts)
        assert named == "call-7"
        assert unnamed not in ("", named)

    async def test_large_messages(self, harness: Harness) -> None:
        texts = [CollectRequest(text=letter * 300_000) for letter in "abc"]
        [answer] = await harness.call("client_stream", send=texts)
        assert len(answer.text) == 900_000

    @pytest.mark.parametrize("kind", ["server_stream", "client_stream"])
    async def test_request_past_the_limit(self, harness: Harness, kind: str) -> None:
        text = "x" * (2 * MAX_MESSAGE_BYTES)
        request: Any = (
            CaptionRequest(prompt=text) if kind == "server_stream" else CollectRequest(text=text)
        )
        with pytest.raises(PlaneError) as caught:
            await harness.call(kind, send=[request])
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert str(MAX_MESSAGE_BYTES) in caught.value.message
        await harness.serves_on()

    @pytest.mark.parametrize("kind", ["server_stream", "client_stream"])
    async def test_answer_past_the_limit(self, harness: Harness, kind: str) -> None:
        with pytest.raises(PlaneError) as caught:
            await harness.call(kind, metadata=do("huge"))
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert str(MAX_MESSAGE_BYTES) in caught.value.message
        await harness.serves_on()

    async def test_handler_publishes(self, harness: Harness) -> None:
        events = harness.server.events.read(["forge/captions/*"])
        await harness.call("server_stream", metadata={"x-request-id": "call-7"})
        async with asyncio.timeout(30):
            [event] = await anext(events)
        assert (getattr(event, "key", ""), getattr(event, "json", "")) == (
            "forge/captions/call-7",
            '{"requestId":"call-7","words":3}',
        )

    async def test_draining_refuses_new_calls_and_finishes_open_ones(
        self, harness: Harness
    ) -> None:
        opened = asyncio.create_task(harness.call("unary", metadata=do("wait")))
        await harness.parts.until(hanging=1)
        draining = asyncio.create_task(harness.server.dispatcher.drain(5))
        await eventually(lambda: harness.server.dispatcher.draining)
        with pytest.raises(PlaneError) as caught:
            await harness.call("server_stream")
        assert caught.value.code is Code.UNAVAILABLE, caught.value
        harness.parts.release.set()
        assert len(await opened) == 1
        await draining

    @pytest.mark.parametrize("kind", KINDS)
    async def test_calls_that_outlast_the_grace_are_unavailable(
        self, harness: Harness, kind: str
    ) -> None:
        opened = asyncio.create_task(harness.call(kind, metadata=do("hang")))
        await harness.parts.until(hanging=1)
        await harness.server.dispatcher.drain(0)
        with pytest.raises(PlaneError) as caught:
            await opened
        assert caught.value.code is Code.UNAVAILABLE, caught.value
        assert harness.parts.cancelled == 1


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds, five seconds at most."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what is watched sets no event
            await asyncio.sleep(0.005)
