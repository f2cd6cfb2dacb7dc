"""Compression of messages."""

from __future__ import annotations

import contextlib
import os
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.link.pair import Pair, bring, settings
from tests.runtime.link.wire import FLAGS, hello

from protoplane.v1.link_pb2 import FRAME_TYPE_MESSAGE
from protoplane_base import Code, PlaneError
from protoplane_runtime.link.compression import compress, decompress

MOST = 1_000_000


@given(st.binary(max_size=2_000))
def test_what_is_compressed_comes_back(data: bytes) -> None:
    packed = compress(data)
    assert decompress(packed, MOST) == data
    assert zstandard.frame_content_size(packed) == len(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_an_error(data: bytes) -> None:
    for tried in (data, b"\x28\xb5\x2f\xfd" + data):
        with contextlib.suppress(PlaneError):
            assert len(decompress(tried, 1_000)) <= 1_000


def test_a_bomb_is_refused_before_memory_is_spent() -> None:
    bomb = compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(PlaneError, match="67108864") as caught:
            decompress(bomb, MOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert peak < 100_000


def test_a_frame_that_lies_about_its_size_is_an_error_and_costs_no_more_than_it_says() -> None:
    bomb = bytearray(compress(bytes(64 << 20)))
    # RFC 8878, 3.1.1: magic (4), descriptor (1), which says that a window (1) and the size of the
    # content (4) follow.
    assert bomb[4] >> 5 == 0b100
    assert int.from_bytes(bomb[6:10], "little") == 64 << 20
    bomb[6:10] = (1_000).to_bytes(4, "little")
    tracemalloc.start()
    try:
        with pytest.raises(PlaneError, match="cannot be decompressed"):
            decompress(bytes(bomb), MOST)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200_000


def test_a_frame_without_its_size_is_refused() -> None:
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1_000)
    with pytest.raises(PlaneError, match="does not state its size"):
        decompress(packed, MOST)


def test_what_follows_the_frame_is_an_error() -> None:
    with pytest.raises(PlaneError, match="cannot be decompressed"):
        decompress(compress(b"x" * 100) + b"more", MOST)


def test_a_session_compresses_from_its_threshold_on_where_it_pays() -> None:
    pair = Pair(settings(compress_from_bytes=1_000))
    for message, packed in (
        (b"x" * 999, False),
        (b"x" * 1_000, True),
        (os.urandom(2_000), False),
    ):
        data, flags = pair.caller.packed(message)
        assert (flags == FLAGS["COMPRESSED"]) == packed
        assert (len(data) < len(message)) == packed
    assert pair.caller.whole_bytes == 999


def test_a_compressed_message_in_parts_arrives() -> None:
    pair = Pair(settings(compress_from_bytes=100), settings(max_frame_bytes=64))
    call = pair.open()
    message = os.urandom(300) * 8
    data, flags = pair.caller.packed(message)
    call.send(data, flags)
    pair.settle()
    parts = [one for one in pair.frames("up") if one.type == FRAME_TYPE_MESSAGE]
    assert len(parts) > 1
    assert all(one.flags & FLAGS["COMPRESSED"] for one in parts)
    assert pair.accepting.calls[0].take() == [message]


def test_a_bomb_ends_its_call_and_no_other() -> None:
    pair = Pair(far=settings(max_message_bytes=10_000))
    harmless = pair.open()
    call = pair.open()
    pair.caller.send_part(call, compress(bytes(1 << 20)), FLAGS["COMPRESSED"])
    pair.settle()
    far = pair.accepting.calls[1]
    assert isinstance(far.error, PlaneError)
    assert far.error.code is Code.RESOURCE_EXHAUSTED
    assert call.told == ["closed"]
    harmless.send(b"fine")
    pair.settle()
    assert pair.accepting.calls[0].take() == [b"fine"]


def test_an_end_that_cannot_undo_it_gets_nothing_compressed() -> None:
    pair = Pair(settings(compress_from_bytes=10), ready=False)
    bring(pair.caller, hello())
    assert pair.caller.packed(b"x" * 1_000) == (b"x" * 1_000, 0)


def test_messages_that_wait_take_no_more_memory_than_came() -> None:
    pair = Pair()
    call = pair.open()
    message = bytes(1 << 20)
    packed = compress(message)
    tracemalloc.start()
    try:
        for _ in range(100):
            pair.caller.send_part(call, packed, FLAGS["COMPRESSED"])
        pair.settle()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 4 * len(message)
    assert pair.accepting.calls[0].take() == [message] * 100


def test_a_message_that_waited_and_cannot_be_decompressed_fails_its_call_in_its_turn() -> None:
    pair = Pair()
    call = pair.open()
    for packed in (compress(b"first"), compress(b"second"), b"third", compress(b"fourth")):
        pair.caller.send_part(call, packed, FLAGS["COMPRESSED"])
    pair.settle()
    [far] = pair.accepting.calls
    assert far.take() == [b"first", b"second"]
    assert far.told[-1] == "failed"
    assert isinstance(far.error, PlaneError)
    pair.settle()
    assert call.told == ["closed"]
    assert pair.acceptor.open_calls == 0
