"""The rules of a link, one end or two, without a socket or a loop."""

from __future__ import annotations

import os
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st
from tests.runtime.link.pair import (
    Accepting,
    Call,
    Pair,
    answers,
    bring,
    greeted,
    link_error,
    nothing,
    settings,
)
from tests.runtime.link.wire import WireFrame, frame, hello, split, type_name

from protoplane.v1.link_pb2 import FRAME_TYPE_CREDIT, Credit, GoAway, Hello
from protoplane_base import Code, PlaneError
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.errors import LinkError, UnsentError
from protoplane_runtime.link.headers import decode_close
from protoplane_runtime.link.settings import Identity, LinkSettings

ROLES = ["caller", "acceptor"]
M = "/t.v1.T/M"


def kinds(frames: list[WireFrame]) -> list[str]:
    return [type_name(one.type) for one in frames]


# Hello.


def test_the_hellos_are_exchanged_before_all_else() -> None:
    pair = Pair(ready=False)
    steps = [pair.caller.ready]
    pair.collect()
    pair.deliver("up")
    steps.append(pair.caller.ready)
    pair.collect()
    pair.deliver("down")
    assert [*steps, pair.caller.ready] == [False, False, True]
    assert kinds(pair.frames("up")) == kinds(pair.frames("down")) == ["HELLO"]


def test_a_hello_says_who_the_end_is_and_what_it_takes() -> None:
    identity = Identity(name="a/b/1", entities=(b"e" * 16,), token="t0ken", agent="me/1")
    near = LinkSettings(identity=identity, limits=settings(max_frame_bytes=100).limits)
    pair = Pair(near, settings(max_calls=3))
    peer = pair.acceptor.peer
    assert (peer.name, list(peer.entities), peer.token, peer.agent) == (
        "a/b/1",
        [b"e" * 16],
        "t0ken",
        "me/1",
    )
    assert pair.acceptor.peer_limits.max_frame_bytes == 100
    assert pair.caller.peer_limits.max_calls == 3
    assert "t0ken" not in repr(near)


def test_limits_that_a_hello_leaves_out_have_their_defaults() -> None:
    session, _ = greeted("caller")
    limits = session.peer_limits
    assert limits.max_frame_bytes == limits.call_window_bytes == 262_144
    assert limits.max_message_bytes == 10_485_760
    assert limits.link_window_bytes == 16_777_216
    assert limits.max_calls == 10_000


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("versions", [(0, 0), (2, 9), (3, 2)])
def test_an_incompatible_hello_is_refused_with_both_versions(
    role: str, versions: tuple[int, int]
) -> None:
    session = Accepting().session if role == "acceptor" else Caller(settings(), wake=nothing)
    least, most = versions
    error = link_error(lambda: bring(session, hello(version_min=least, version_max=most)))
    assert error is not None
    assert error.code is Code.FAILED_PRECONDITION
    assert f"{least} to {most}" in error.message
    assert not session.ready


def test_a_version_in_between_is_spoken() -> None:
    accepting = Accepting()
    bring(accepting.session, hello(version_min=0, version_max=7))
    assert accepting.session.ready


@pytest.mark.parametrize("role", ROLES)
def test_a_second_hello_is_an_error(role: str) -> None:
    session, _ = greeted(role)
    with pytest.raises(LinkError, match="second hello"):
        bring(session, hello())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "name",
    ["OPEN", "MESSAGE", "HALF_CLOSE", "CLOSE", "CANCEL", "CREDIT", "PING", "PONG"],
)
def test_a_frame_before_the_hello_is_an_error(role: str, name: str) -> None:
    session = Accepting().session if role == "acceptor" else Caller(settings(), wake=nothing)
    with pytest.raises(LinkError, match="before the hello"):
        bring(session, frame(name, 1))


def test_who_is_not_welcome_hears_no_hello() -> None:
    def welcome(_: Hello) -> None:
        raise LinkError(Code.UNAUTHENTICATED, "no token; send one")

    accepting = Accepting(welcome=welcome)
    with pytest.raises(LinkError, match="no token"):
        bring(accepting.session, hello())
    assert not accepting.session.pending()


def test_a_go_away_instead_of_a_hello_says_why() -> None:
    caller = Caller(settings(), wake=nothing)
    with pytest.raises(LinkError, match="no token") as caught:
        bring(caller, frame("GO_AWAY", code=16, message="no token; send one"))
    assert caught.value.code is Code.UNAUTHENTICATED


# What is not known.


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("type_", [0, 11, 200, 255])
def test_a_frame_of_an_unknown_type_is_skipped(role: str, type_: int) -> None:
    session, _ = greeted(role)
    bring(session, WireFrame(type_, 255, 77, b"header", b"payload").encode())
    bring(session, frame("PING", payload=b"still"))
    assert kinds(answers(session)) == ["PONG"]


def test_a_frame_of_an_unknown_type_is_skipped_before_the_hello() -> None:
    accepting = Accepting()
    bring(accepting.session, WireFrame(99, 0, 0, b"", b"x").encode() + hello())
    assert accepting.session.ready


def test_unknown_flags_are_ignored() -> None:
    session, calls = greeted("acceptor")
    one = split(frame("OPEN", 1, "END", b"ask", method=M))[0][0]
    bring(session, one._replace(flags=one.flags | 0xF8).encode())
    assert calls[0].request == b"ask"


def test_frames_of_the_other_role_are_skipped() -> None:
    caller, _ = greeted("caller")
    bring(caller, frame("OPEN", 1, method=M) + frame("CANCEL", 1) + frame("HALF_CLOSE", 1))
    acceptor, calls = greeted("acceptor")
    bring(acceptor, frame("OPEN", 1, method=M) + frame("CLOSE", 1))
    assert not calls[0].over
    assert caller.open_calls == acceptor.open_calls == 1


# Calls.


def test_a_call_with_one_message_each_way() -> None:
    pair = Pair()
    call = pair.open(b"ask")
    pair.settle()
    [far] = pair.accepting.calls
    assert far.request == b"ask"
    pair.acceptor.close(far, b"", b"answer")
    pair.settle()
    assert (call.told, call.answer) == (["closed"], b"answer")
    assert pair.caller.open_calls == pair.acceptor.open_calls == 0
    assert kinds(pair.frames("up")) == ["HELLO", "OPEN"]
    assert kinds(pair.frames("down")) == ["HELLO", "CLOSE"]


def test_an_empty_request_is_not_the_same_as_none() -> None:
    pair = Pair()
    pair.open(b"")
    pair.open(None)
    pair.settle()
    assert [far.request for far in pair.accepting.calls] == [b"", None]


def test_streams_both_ways_keep_their_order() -> None:
    pair = Pair()
    call = pair.open()
    for index in range(10):
        call.send(b"up %d" % index)
    pair.caller.half_close(call)
    pair.settle()
    [far] = pair.accepting.calls
    assert far.told == ["arrived"] * 10 + ["half_closed"]
    assert far.take() == [b"up %d" % index for index in range(10)]
    far.send(b"down 0")
    far.send(b"down 1")
    pair.acceptor.close(far)
    pair.settle()
    assert call.told == ["arrived", "arrived", "closed"]
    assert call.take() == [b"down 0", b"down 1"]


def test_the_last_message_can_say_that_it_is_the_last() -> None:
    pair = Pair()
    call = pair.open()
    pair.caller.send_part(call, b"only", 1)
    pair.settle()
    assert pair.accepting.calls[0].told == ["arrived", "half_closed"]


def test_an_acceptor_cannot_end_a_stream_by_a_message() -> None:
    """Only a CLOSE says how a call went, so a stream without one is no success."""
    caller, [call] = greeted("caller")
    bring(caller, frame("MESSAGE", 1, "END", b"x"))
    assert call.told == ["arrived"]


@pytest.mark.parametrize("ids", [(2,), (0,), (3, 1), (5, 5), (1, 3, 2)])
def test_numbers_of_calls_are_odd_and_grow(ids: tuple[int, ...]) -> None:
    session, _ = greeted("acceptor")
    *good, bad = ids
    for id_ in good:
        bring(session, frame("OPEN", id_, method=M))
    with pytest.raises(LinkError, match="calls have odd numbers that grow"):
        bring(session, frame("OPEN", bad, method=M))


@pytest.mark.parametrize("name", ["MESSAGE", "HALF_CLOSE", "CANCEL", "CREDIT"])
def test_an_acceptor_knows_which_calls_there_were(name: str) -> None:
    session, calls = greeted("acceptor")
    bring(session, frame("OPEN", 5, method=M))
    bring(session, frame("CANCEL", 5))
    assert calls[0].told == ["cancelled"]
    bring(session, frame(name, 5) + frame(name, 3))
    assert calls[0].told == ["cancelled"]
    with pytest.raises(LinkError, match="call 7"):
        bring(session, frame(name, 7))


@pytest.mark.parametrize("name", ["MESSAGE", "CLOSE", "CREDIT"])
@pytest.mark.parametrize("id_", [2, 3, 2**64 - 1])
def test_a_caller_knows_which_calls_it_made(name: str, id_: int) -> None:
    session, [call] = greeted("caller")
    bring(session, frame("CLOSE", 1))
    bring(session, frame(name, 1))
    assert call.told == ["closed"]
    with pytest.raises(LinkError, match=f"call {id_}"):
        bring(session, frame(name, id_))


@pytest.mark.parametrize("name", ["OPEN", "CREDIT", "GO_AWAY"])
def test_a_header_that_is_none_is_an_error_of_the_link(name: str) -> None:
    session, _ = greeted("acceptor")
    bring(session, frame("OPEN", 1, method=M))
    bad = split(frame(name, 3 if name == "OPEN" else 1))[0][0]._replace(header=b"\xff\xff")
    with pytest.raises(LinkError, match="a header of 2 bytes is no"):
        bring(session, bad.encode())


def test_a_close_that_cannot_be_read_fails_its_call_too() -> None:
    """It is no longer among the calls that the end of the link reaches."""

    class Reading(Call):
        def closed(self, header: bytes, payload: bytes | None) -> None:
            decode_close(header)

    caller, _ = greeted("caller")
    assert isinstance(caller, Caller)
    call = Reading()
    caller.open(call, b"", b"")
    bad = split(frame("CLOSE", 3))[0][0]._replace(header=b"\xff\xff")
    with pytest.raises(LinkError, match="no Close"):
        bring(caller, bad.encode())
    assert call.told == ["failed"]


def test_a_call_that_is_refused_is_closed() -> None:
    accepting = Accepting(refuse=PlaneError(Code.UNIMPLEMENTED, "no such method"))
    bring(accepting.session, hello() + frame("OPEN", 1, "END", b"", method=M))
    close = answers(accepting.session)[-1]
    error, _ = decode_close(close.header)
    assert error is not None
    assert (error.code, isinstance(error, UnsentError)) == (Code.UNIMPLEMENTED, False)
    assert accepting.session.open_calls == 0


def test_a_call_past_the_most_is_handed_back_unseen() -> None:
    session, calls = greeted("acceptor", settings(max_calls=2))
    for id_ in (1, 3, 5):
        bring(session, frame("OPEN", id_, method=M))
    [close] = answers(session)
    error, _ = decode_close(close.header)
    assert isinstance(error, UnsentError)
    assert (close.call, error.code) == (5, Code.RESOURCE_EXHAUSTED)
    assert len(calls) == 2
    bring(session, frame("CANCEL", 1) + frame("OPEN", 7, method=M))
    assert len(calls) == 3


# Cancellation and its races.


def test_a_cancelled_call_is_over_at_both_ends() -> None:
    pair = Pair()
    call = pair.open()
    pair.settle()
    pair.caller.cancel(call)
    pair.settle()
    [far] = pair.accepting.calls
    assert far.told == ["cancelled"]
    assert far.ended
    assert call.ended
    assert pair.caller.open_calls == pair.acceptor.open_calls == 0


def test_what_crosses_a_cancellation_is_dropped() -> None:
    pair = Pair()
    call = pair.open()
    pair.settle()
    [far] = pair.accepting.calls
    far.send(b"late")
    pair.acceptor.close(far, b"", b"later")
    pair.caller.cancel(call)
    pair.settle()
    assert call.told == []
    assert far.told == []


def test_cancelling_twice_or_after_the_end_says_nothing() -> None:
    pair = Pair()
    call = pair.open()
    pair.settle()
    pair.acceptor.close(pair.accepting.calls[0])
    pair.settle()
    pair.caller.cancel(call)
    pair.caller.cancel(call)
    assert answers(pair.caller) == []
    assert call.told == ["closed"]


def test_a_call_that_is_over_sends_nothing_more() -> None:
    pair = Pair()
    call = pair.open()
    pair.settle()
    [far] = pair.accepting.calls
    pair.acceptor.close(far)
    pair.acceptor.close(far, b"", b"again")
    pair.acceptor.fail(far, PlaneError(Code.INTERNAL, "again"), {})
    assert kinds(answers(pair.acceptor)) == ["CLOSE"]
    pair.caller.cancel(call)
    pair.caller.half_close(call)
    assert kinds(answers(pair.caller)) == ["CANCEL"]


# Sizes.


@pytest.mark.parametrize("role", ROLES)
def test_a_frame_that_announces_4_gb_is_refused_before_memory_is_spent(role: str) -> None:
    session, _ = greeted(role)
    tracemalloc.start()
    try:
        with pytest.raises(LinkError, match="max_frame_bytes"):
            bring(session, struct.pack("!BBHIQ", 3, 0, 0, 0xFFFF_FFFF, 1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_message_in_parts_is_refused_as_soon_as_it_is_too_large() -> None:
    session, calls = greeted("acceptor", settings(max_message_bytes=1_000))
    bring(session, frame("OPEN", 1, method=M) + frame("OPEN", 3, method=M))
    part = frame("MESSAGE", 1, "MORE", bytes(400))
    bring(session, part + part)
    assert calls[0].told == []
    bring(session, part)
    assert isinstance(calls[0].error, PlaneError)
    assert calls[0].error.code is Code.RESOURCE_EXHAUSTED
    [close] = answers(session)
    error, _ = decode_close(close.header)
    assert error is not None
    assert "1000" in error.message
    bring(session, part + frame("MESSAGE", 3, "", b"fine"))
    assert calls[1].take() == [b"fine"]


def test_an_answer_that_is_too_large_cancels_its_call() -> None:
    session, [call] = greeted("caller", settings(max_message_bytes=1_000, max_frame_bytes=2_000))
    bring(session, frame("MESSAGE", 1, "", bytes(1_001)))
    assert isinstance(call.error, PlaneError)
    assert call.error.code is Code.RESOURCE_EXHAUSTED
    assert kinds(answers(session)) == ["CANCEL"]


def test_a_last_answer_that_is_too_large_fails_its_call() -> None:
    session, [call] = greeted("caller", settings(max_message_bytes=1_000, max_frame_bytes=2_000))
    bring(session, frame("CLOSE", 1, "END", bytes(1_001)))
    assert call.told == ["failed"]


def test_a_request_that_is_too_large_is_never_seen() -> None:
    session, calls = greeted("acceptor", settings(max_message_bytes=1_000, max_frame_bytes=2_000))
    bring(session, frame("OPEN", 1, "END", bytes(1_001), method=M))
    assert calls == []
    error, _ = decode_close(answers(session)[0].header)
    assert error is not None
    assert error.code is Code.RESOURCE_EXHAUSTED


def test_a_message_that_the_other_end_does_not_take_is_not_sent() -> None:
    pair = Pair(far=settings(max_message_bytes=10))
    pair.caller.check_size(10, "request")
    with pytest.raises(PlaneError, match="the request has 11 bytes"):
        pair.caller.check_size(11, "request")


def test_parts_of_nothing_take_no_memory() -> None:
    """They are given credit for at once, so their number has no end."""
    session, calls = greeted("acceptor")
    bring(session, frame("OPEN", 1, method=M))
    data = frame("MESSAGE", 1, "MORE") * 1_000
    bring(session, data)
    tracemalloc.start()
    try:
        for _ in range(50):
            bring(session, data)
            session.take()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 100_000
    bring(session, frame("MESSAGE", 1, "", b"end"))
    assert calls[0].take() == [b"end"]


# Flow control.


def test_a_sender_stops_at_the_window_and_goes_on_with_credit() -> None:
    pair = Pair(far=settings(call_window_bytes=1_000))
    call = pair.open()
    for index in range(20):
        call.send(bytes([index]) * 36)
    # Each costs 36 + 64 = 100, and one may be sent while any credit is left.
    assert len(call.unsent) == 10
    pair.settle()
    [far] = pair.accepting.calls
    for _ in range(4):
        pair.acceptor.next_message(far)
    pair.settle()
    assert len(call.unsent) == 10, "credit comes when half the window was taken"
    pair.acceptor.next_message(far)
    pair.settle()
    assert len(call.unsent) == 5
    taken = 5
    while messages := far.take():
        taken += len(messages)
        pair.settle()
    assert taken == 20
    credits_ = [one for one in pair.frames("down") if one.type == FRAME_TYPE_CREDIT]
    assert {one.call for one in credits_} == {1}
    assert all(Credit.FromString(one.header).more_bytes >= 500 for one in credits_)


def test_one_stalled_stream_does_not_stall_another() -> None:
    pair = Pair(far=settings(call_window_bytes=1_000, link_window_bytes=10_000))
    slow, quick = pair.open(), pair.open()
    for _ in range(1_000):
        slow.send(bytes(36))
    pair.settle()
    [_, far] = pair.accepting.calls
    for index in range(100):
        quick.send(b"%d" % index)
        pair.settle()
        assert far.take() == [b"%d" % index]
    assert len(slow.unsent) == 990


def test_as_many_stalled_streams_as_fill_the_link_stall_it_and_one_that_goes_frees_it() -> None:
    pair = Pair(far=settings(call_window_bytes=1_000, link_window_bytes=4_000))
    stalled = [pair.open() for _ in range(4)]
    for call in stalled:
        for _ in range(20):
            call.send(bytes(36))
    other = pair.open()
    other.send(b"x")
    pair.settle()
    assert other.unsent
    pair.caller.cancel(stalled[0])
    pair.caller.cancel(stalled[1])
    pair.settle()
    assert not other.unsent
    assert pair.accepting.calls[4].take() == [b"x"]


@pytest.mark.parametrize(
    ("limits", "what"),
    [({"call_window_bytes": 100}, "call 1"), ({"link_window_bytes": 100}, "the link's window")],
)
def test_who_sends_without_credit_breaks_the_link(limits: dict[str, int], what: str) -> None:
    session, _ = greeted("acceptor", settings(**limits))
    bring(session, frame("OPEN", 1, method=M))
    bring(session, frame("MESSAGE", 1) + frame("MESSAGE", 1))
    with pytest.raises(LinkError, match=what):
        bring(session, frame("MESSAGE", 1))


def test_unread_messages_of_a_call_that_ended_no_longer_fill_the_window() -> None:
    pair = Pair(near=settings(link_window_bytes=1_000))
    for _ in range(20):
        call = pair.open()
        pair.settle()
        far = pair.accepting.calls[-1]
        far.send(bytes(436))
        assert not far.unsent
        pair.acceptor.close(far)
        pair.settle()
        pair.caller.discard(call)
        pair.settle()


def test_a_message_larger_than_the_window_gets_through() -> None:
    pair = Pair(far=settings(call_window_bytes=500, link_window_bytes=700, max_frame_bytes=100))
    call = pair.open()
    message = os.urandom(20_000)
    call.send(message)
    pair.settle()
    assert pair.accepting.calls[0].take() == [message]


def test_a_congested_carrier_stops_streams_until_it_is_not() -> None:
    pair = Pair()
    pair.caller.congested = True
    call = pair.open()
    call.send(b"x")
    assert call.unsent
    pair.caller.uncongested()
    assert not call.unsent


def test_credit_of_any_size_is_taken() -> None:
    session, _ = greeted("caller")
    most = 2**32 - 1
    for call in (0, 1):
        bring(session, frame("CREDIT", call, more_bytes=most) * 10)


# Ping and go-away.


def test_a_ping_is_answered_with_what_it_carried() -> None:
    session, _ = greeted("acceptor")
    bring(session, frame("PING", payload=b"p" * 64))
    [pong] = answers(session)
    assert (type_name(pong.type), pong.payload) == ("PONG", b"p" * 64)
    with pytest.raises(LinkError, match="65 bytes"):
        bring(session, frame("PING", payload=b"p" * 65))


def test_pongs_reach_pings() -> None:
    pair = Pair()
    pair.caller.ping()
    pair.caller.ping()
    assert pair.caller.pongs == 0
    pair.settle()
    assert pair.caller.pongs == pair.caller.pings == 2
    bring(pair.caller, frame("PONG", payload=b"\xff" * 8))
    assert pair.caller.pongs == 2


def test_pings_of_an_end_that_does_not_read_fill_no_memory() -> None:
    session, _ = greeted("caller")
    session.congested = True
    bring(session, frame("PING", payload=b"x") * 1_000)
    assert not session.pending()


def test_a_drain_finishes_what_it_took_and_hands_back_the_rest() -> None:
    gone: list[GoAway] = []
    pair = Pair(on_go_away=gone.append)
    kept = pair.open(b"1")
    pair.settle()
    crossing = pair.open(b"2")
    pair.acceptor.drain("the server stops", ("link+unix:/x",))
    pair.settle()
    assert isinstance(crossing.error, UnsentError)
    assert len(pair.accepting.calls) == 1
    assert [(one.code, one.last_call, list(one.endpoints)) for one in gone] == [
        (0, 1, ["link+unix:/x"])
    ]
    with pytest.raises(UnsentError, match="going away"):
        pair.open(b"3")
    pair.acceptor.close(pair.accepting.calls[0], b"", b"done")
    pair.settle()
    assert kept.answer == b"done"


def test_a_drain_before_the_hello_is_told_after_it() -> None:
    accepting = Accepting()
    accepting.session.drain("stopping")
    bring(accepting.session, hello())
    accepting.session.drain("stopping")
    accepting.session.drain("stopping")
    assert kinds(answers(accepting.session)) == ["HELLO", "GO_AWAY"]


@pytest.mark.parametrize("role", ROLES)
def test_a_go_away_with_a_code_ends_the_link(role: str) -> None:
    session, _ = greeted(role)
    with pytest.raises(LinkError, match="out of cheese") as caught:
        bring(session, frame("GO_AWAY", code=8, message="out of cheese"))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("role", ROLES)
def test_what_the_other_end_said_can_always_be_said_back(role: str) -> None:
    session, _ = greeted(role)
    with pytest.raises(LinkError) as caught:
        bring(session, frame("GO_AWAY", code=13, message="x" * 65_000))
    session.go_away(int(caught.value.code), caught.value.message)
    assert kinds(answers(session)) == ["GO_AWAY"]


def test_the_end_of_the_link_fails_every_call() -> None:
    pair = Pair()
    calls = [pair.open() for _ in range(5)]
    pair.settle()
    error = PlaneError(Code.UNAVAILABLE, "gone")
    pair.caller.lost(error)
    pair.acceptor.lost(error)
    for call in (*calls, *pair.accepting.calls):
        assert call.told == ["failed"]
        assert call.error is error
    with pytest.raises(UnsentError):
        pair.open()
    assert pair.caller.open_calls == pair.acceptor.open_calls == 0


# Anything at all.

any_frame = st.builds(
    WireFrame,
    type=st.integers(0, 12),
    flags=st.integers(0, 8),
    call=st.sampled_from([0, 1, 2, 3, 5, 7, 2**64 - 1]),
    header=st.sampled_from(
        [
            b"",
            b"\xff",
            Credit(more_bytes=1).SerializeToString(),
            Credit(more_bytes=2**32 - 1).SerializeToString(),
            split(frame("OPEN", method=M))[0][0].header,
            split(hello())[0][0].header,
            split(frame("CLOSE", code=5, message="x"))[0][0].header,
            split(frame("GO_AWAY", last_call=1))[0][0].header,
        ]
    )
    | st.binary(max_size=10),
    payload=st.binary(max_size=70),
)


def feed(role: str, data: bytes) -> None:
    """Give one end any bytes: the calls it has must end with it."""
    given_ = settings(max_calls=3, call_window_bytes=300, link_window_bytes=500)
    session, calls = greeted(role, given_)
    error = link_error(lambda: bring(session, data))
    if error is not None:
        session.go_away(int(error.code), error.message)
    split(session.take())
    session.lost(error or PlaneError(Code.UNAVAILABLE, "gone"))
    assert all(call.over for call in calls)
    assert session.open_calls == 0


@pytest.mark.parametrize("role", ROLES)
@trying(max_examples=300)
@given(frames=st.lists(any_frame, max_size=12))
def test_any_frames_in_any_order_are_taken_or_end_the_link(
    role: str, frames: list[WireFrame]
) -> None:
    feed(role, b"".join(one.encode() for one in frames))


@pytest.mark.parametrize("role", ROLES)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_taken_or_end_the_link(role: str, data: bytes) -> None:
    feed(role, data)


def conversation() -> dict[str, list[WireFrame]]:
    """What a pair says in a short life, after its hellos."""
    pair = Pair(
        settings(call_window_bytes=300, max_frame_bytes=64),
        settings(call_window_bytes=300, max_frame_bytes=64),
    )
    unary, stream, gone = pair.open(b"ask"), pair.open(), pair.open(b"long")
    stream.send(b"x" * 200)
    stream.send(b"y")
    pair.caller.half_close(stream)
    pair.caller.ping()
    pair.settle()
    first, second, third = pair.accepting.calls
    second.take()
    pair.acceptor.close(first, b"", b"answer")
    for _ in range(8):
        second.send(b"down" * 5)
        third.send(b"more" * 5)
    pair.settle()
    stream.take()
    pair.settle()
    pair.caller.cancel(gone)
    stream.take()
    pair.settle()
    pair.acceptor.close(second)
    pair.acceptor.drain("stop")
    pair.settle()
    assert unary.over
    assert stream.over
    return {"up": pair.frames("up"), "down": pair.frames("down")}


RECORDED = conversation()


@pytest.mark.parametrize("role", ROLES)
@trying(max_examples=300)
@given(data=st.data())
def test_a_conversation_out_of_order_doubled_or_short_is_taken_or_ends_the_link(
    role: str, data: st.DataObject
) -> None:
    frames = RECORDED["up" if role == "acceptor" else "down"][1:]
    indexes = data.draw(st.lists(st.sampled_from(range(len(frames))), max_size=2 * len(frames)))
    raw = b"".join(frames[index].encode() for index in indexes)
    feed(role, raw[: data.draw(st.integers(0, len(raw)))])


def test_an_end_that_drains_before_the_hello_says_so_after_it() -> None:
    acceptor = Accepting().session
    acceptor.drain("moved", ("link+tcp://127.0.0.1:1",))
    assert not acceptor.pending()
    acceptor.received(hello())
    told = [type_name(frame.type) for frame in split(acceptor.take())[0]]
    assert told == ["HELLO", "GO_AWAY"]
