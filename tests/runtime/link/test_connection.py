"""A session on a carrier."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.runtime.link.memory_carrier import Wire
from tests.runtime.link.pair import OPEN, Accepting, Call, settings
from tests.runtime.link.wire import frame, hello, split, type_name

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.connection import Connection
from protoplane_runtime.link.settings import LinkSettings

WAIT_S = 20.0
TOO_LARGE = b"\x03\x00\x00\x00\xff\xff\xff\xff" + bytes(8)

pytestmark = pytest.mark.anyio


class Ends:
    """A caller and an acceptor on one wire."""

    def __init__(
        self,
        near: LinkSettings | None = None,
        far: LinkSettings | None = None,
        wire: Wire | None = None,
    ) -> None:
        self.wire = wire or Wire()
        self.near: Connection[Caller] = Connection()
        self.far: Connection[Acceptor] = Connection(serving=True)
        self.wire.near.receiver, self.wire.far.receiver = self.near, self.far
        caller = Caller(near or settings(), wake=self.near.wake)
        accepting = Accepting(far or settings())
        accepting.session = Acceptor(
            far or settings(),
            wake=self.far.wake,
            accept=self._accept,
            welcome=lambda _: self.far.watch(),
        )
        self.calls: list[Call] = []
        self.near.start(caller, self.wire.near)
        self.far.start(accepting.session, self.wire.far)

    def _accept(self, header: bytes, request: bytes | None) -> Call:
        call = Call(header, request)
        call.session = self.far.session
        self.calls.append(call)
        return call

    async def ready(self) -> None:
        while not self.near.session.ready:  # noqa: ASYNC110
            await asyncio.sleep(0)
        self.near.watch()

    def open(self, request: bytes | None = None) -> Call:
        call = Call()
        call.session = self.near.session
        self.near.session.open(call, OPEN, request)
        return call


async def turns(count: int = 20) -> None:
    """Let the loop turn a few times, in which all that is ready arrives."""
    for _ in range(count):
        await asyncio.sleep(0)


async def why(link: Connection[Caller] | Connection[Acceptor]) -> PlaneError | None:
    """Why a link ended, once it did."""
    async with asyncio.timeout(WAIT_S):
        return await asyncio.shield(link.closed)


async def test_all_frames_of_one_turn_leave_in_one_write() -> None:
    ends = Ends()
    await ends.ready()
    before = len(ends.wire.near.sent)
    for index in range(50):
        ends.open(b"%d" % index)
    call = ends.open()
    call.send(b"x")
    await turns()
    [batch] = ends.wire.near.sent[before:]
    frames, rest = split(batch)
    assert (len(frames), rest) == (52, b"")
    assert len(ends.calls) == 51
    ends.near.close()
    assert await why(ends.near) is None
    assert await why(ends.far) is None


async def test_a_batch_is_no_greater_than_the_carrier_takes() -> None:
    ends = Ends()
    await ends.ready()
    ends.wire.near.max_batch_bytes = 100
    before = len(ends.wire.near.sent)
    ends.open(b"x" * 1_000)
    await turns()
    batches = ends.wire.near.sent[before:]
    assert max(map(len, batches)) == 100
    assert ends.calls[0].request == b"x" * 1_000
    assert ends.near.bytes_sent == ends.far.bytes_received
    ends.near.abort(PlaneError(Code.UNAVAILABLE, "enough"))
    await why(ends.far)


async def test_a_broken_rule_is_told_to_the_other_end_and_ends_both() -> None:
    ends = Ends()
    await ends.ready()
    call = ends.open()
    await turns()
    ends.far.received(frame("OPEN", 2, method="/a/B"))
    error = await why(ends.far)
    assert error is not None
    assert "odd numbers" in error.message
    told = await why(ends.near)
    assert told is not None
    assert "odd numbers" in told.message
    assert call.told == ["failed"]
    assert ends.calls[0].told == ["failed"]
    for failed in (call, ends.calls[0]):
        assert failed.error is not None
        assert failed.error.code is Code.UNAVAILABLE, "INVALID_ARGUMENT would blame the call"
        assert "odd numbers" in failed.error.message


async def test_nothing_is_read_after_a_broken_rule() -> None:
    """Where a frame begins is not known any more, so it must not be guessed."""
    ends = Ends()
    await ends.ready()
    ends.far.received(TOO_LARGE)
    ends.far.received(frame("OPEN", 1, method="/a/B"))
    assert ends.calls == []
    await why(ends.far)


async def test_a_long_reason_of_the_other_end_does_not_break_the_answer() -> None:
    ends = Ends()
    await ends.ready()
    ends.far.received(frame("GO_AWAY", code=13, message="x" * 65_000))
    error = await why(ends.far)
    assert error is not None
    assert error.code is Code.INTERNAL
    assert ends.wire.far.calls == ["close"]


async def test_closing_sends_what_is_ready_even_when_the_carrier_is_full() -> None:
    ends = Ends()
    await ends.ready()
    ends.far.congested()
    call = ends.open(b"ask")
    await turns()
    ends.far.session.close(ends.calls[0], b"", b"answer")
    ends.far.close()
    assert await why(ends.near) is None
    assert call.answer == b"answer"


async def test_a_serving_end_reads_no_more_while_its_answers_pile_up() -> None:
    ends = Ends()
    await ends.ready()
    call = ends.open(b"ask")
    await turns()
    ends.far.congested()
    ends.far.session.close(ends.calls[0], b"", b"answer")
    await turns()
    assert ends.wire.far.calls == ["pause"]
    assert call.told == []
    ends.far.uncongested()
    await turns()
    assert ends.wire.far.calls == ["pause", "resume"]
    assert call.answer == b"answer"
    ends.near.close()
    await why(ends.far)


async def test_a_link_without_a_hello_ends() -> None:
    wire = Wire()
    wire.far.deaf = True
    ends = Ends(near=replace(settings(), hello_timeout_s=0.01), wire=wire)
    error = await why(ends.near)
    assert error is not None
    assert error.code is Code.UNAVAILABLE
    assert "no hello came" in error.message


async def test_silence_is_asked_about_and_an_answer_keeps_the_link() -> None:
    ends = Ends(near=replace(settings(), ping_after_s=0.01, ping_timeout_s=0.25))
    await ends.ready()
    async with asyncio.timeout(WAIT_S):
        while ends.near.session.pongs < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert not ends.near.closed.done()
    ends.near.close()
    await why(ends.far)


async def test_silence_after_a_ping_ends_the_link_and_fails_its_calls() -> None:
    ends = Ends(near=replace(settings(), ping_after_s=0.01, ping_timeout_s=0.01))
    await ends.ready()
    call = ends.open()
    await turns()
    ends.wire.far.deaf = True
    error = await why(ends.near)
    assert error is not None
    assert error.code is Code.UNAVAILABLE
    assert "silent" in error.message
    assert call.error is error


async def test_a_close_that_nobody_reads_ends_all_the_same() -> None:
    ends = Ends(near=replace(settings(), ping_after_s=0.01, ping_timeout_s=0.01))
    await ends.ready()
    ends.wire.near.stuck = ends.wire.far.deaf = True
    ends.near.close()
    error = await why(ends.near)
    assert error is not None
    assert "silent" in error.message


async def test_an_end_that_is_closed_twice_or_after_it_is_over_stays_so() -> None:
    ends = Ends()
    await ends.ready()
    ends.near.close()
    ends.near.close()
    assert await why(ends.near) is None
    ends.near.close()
    ends.near.abort(PlaneError(Code.UNAVAILABLE, "late"))
    ends.near.received(hello())
    ends.near.lost(None)
    assert await why(ends.near) is None


async def test_a_refused_hello_gives_both_ends_the_reason() -> None:
    wire = Wire()
    far: Connection[Acceptor] = Connection(serving=True)
    wire.far.receiver = far
    far.start(Accepting().session, wire.far)

    class Recorder:
        data = b""

        def received(self, data: bytes) -> None:
            self.data += data

        def congested(self) -> None: ...
        def uncongested(self) -> None: ...
        def lost(self, error: PlaneError | None) -> None: ...

    recorder = wire.near.receiver = Recorder()
    wire.near.send(hello(version_min=7, version_max=9))
    error = await why(far)
    assert error is not None
    assert error.code is Code.FAILED_PRECONDITION
    await turns()
    [told] = split(recorder.data)[0]
    assert type_name(told.type) == "GO_AWAY"
    assert b"7 to 9" in told.header


async def test_nothing_that_came_after_a_broken_rule_is_acted_on_later() -> None:
    """What is over a burst of frames waits for later turns of the loop, and must not have one."""
    ends = Ends()
    await ends.ready()
    good = [frame("OPEN", number, method="/a/B") for number in range(1, 100, 2)]
    ends.far.received(b"".join(good[:3]) + frame("OPEN", 2, method="/a/B") + b"".join(good[3:]))
    assert await why(ends.far) is not None
    assert len(ends.calls) == 3
    assert all(call.told == ["failed"] for call in ends.calls)


async def test_an_end_with_too_many_frames_to_act_on_reads_no_more_until_it_has() -> None:
    ends = Ends()
    await ends.ready()
    ends.far.received(frame("PONG") * 10_000)
    assert ends.wire.far.calls == ["pause"]
    async with asyncio.timeout(WAIT_S):
        while ends.wire.far.calls == ["pause"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert ends.wire.far.calls == ["pause", "resume"]
    assert ends.far.session.backlog == 0
    ends.near.close()
    await why(ends.far)
