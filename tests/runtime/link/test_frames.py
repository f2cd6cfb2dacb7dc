"""Frames as bytes."""

from __future__ import annotations

import os
import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.runtime.link.wire import WireFrame, split

from protoplane_base import Code
from protoplane_runtime.link.errors import LinkError
from protoplane_runtime.link.frames import MAX_HEADER_BYTES, Decoder, Frame, encode

MOST = 300

wire_frames = st.builds(
    WireFrame,
    type=st.integers(0, 255),
    flags=st.integers(0, 255),
    call=st.integers(0, 2**64 - 1),
    header=st.binary(max_size=40),
    payload=st.binary(max_size=MOST),
)


def flat(frames: list[Frame]) -> list[WireFrame]:
    return [WireFrame(*one) for one in frames]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Some bytes in pieces of these sizes, the rest in one."""
    pieces: list[bytes] = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(wire_frames)
def test_what_is_encoded_is_what_the_wire_says(one: WireFrame) -> None:
    data = encode(one.type, one.flags, one.call, one.header, one.payload)
    assert data == one.encode()
    assert flat(Decoder(MOST).feed(data)) == [one]


@given(st.lists(wire_frames, max_size=6), st.lists(st.integers(0, 60), max_size=40))
def test_pieces_of_any_size_give_the_same_frames(frames: list[WireFrame], sizes: list[int]) -> None:
    data = b"".join(one.encode() for one in frames)
    decoder = Decoder(MOST)
    found = [one for piece in cut(data, sizes) for one in decoder.feed(piece)]
    assert flat(found) == frames
    assert decoder.pending == 0


@given(st.lists(wire_frames, min_size=1, max_size=3))
def test_each_frame_is_given_as_soon_as_it_is_whole(frames: list[WireFrame]) -> None:
    decoder = Decoder(MOST)
    for one in frames:
        data = one.encode()
        for index in range(len(data) - 1):
            assert decoder.feed(data[index : index + 1]) == []
            assert decoder.pending == index + 1
        assert flat(decoder.feed(data[-1:])) == [one]


@given(st.binary(max_size=400), st.lists(st.integers(0, 30), max_size=20))
@example(b"\x00" * 15, [])
@example(b"\xff" * 16, [])
def test_any_bytes_give_frames_or_a_link_error(data: bytes, sizes: list[int]) -> None:
    expected, rest = split(data)
    decoder = Decoder(MOST)
    found: list[Frame] = []
    error: LinkError | None = None
    try:
        for piece in cut(data, sizes):
            found += decoder.feed(piece)
    except LinkError as caught:
        error = caught
    if error is None:
        assert flat(found) == expected
        assert decoder.pending == len(rest)
    else:
        assert error.code is Code.INVALID_ARGUMENT
        assert flat(found) == expected[: len(found)]
        assert any(len(one.payload) > MOST for one in expected) or announced(rest) > MOST


def announced(data: bytes) -> int:
    """The length of the payload that an unfinished frame announces."""
    return struct.unpack_from("!I", data, 4)[0] if len(data) >= 16 else 0


def test_a_truncated_frame_waits() -> None:
    data = encode(3, 0, 1, b"header", b"payload")
    for size in range(len(data)):
        decoder = Decoder(MOST)
        assert decoder.feed(data[:size]) == []
        assert decoder.pending == size


def test_a_header_of_the_greatest_size_passes_and_one_byte_more_does_not() -> None:
    greatest = bytes(MAX_HEADER_BYTES)
    [one] = Decoder(MOST).feed(encode(2, 0, 1, greatest))
    assert one[3] == greatest
    with pytest.raises(LinkError, match="65535"):
        encode(2, 0, 1, greatest + b"x")


def test_a_payload_of_the_greatest_size_passes_and_one_byte_more_does_not() -> None:
    [one] = Decoder(MOST).feed(encode(3, 0, 1, b"", bytes(MOST)))
    assert len(one[4]) == MOST
    with pytest.raises(LinkError, match="max_frame_bytes is 300") as caught:
        Decoder(MOST).feed(encode(3, 0, 1, b"", bytes(MOST + 1)))
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_frame_of_4_gb_is_refused_by_its_prefix_before_memory_is_spent() -> None:
    prefix = struct.pack("!BBHIQ", 3, 0, 0, 0xFFFF_FFFF, 1)
    decoder = Decoder(256 * 1024)
    decoder.feed(prefix[:15])
    tracemalloc.start()
    try:
        with pytest.raises(LinkError, match="4294967295"):
            decoder.feed(prefix[15:])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_many_small_pieces_of_a_large_frame_cost_no_more_than_it_does() -> None:
    payload = os.urandom(200_000)
    data = encode(3, 0, 1, b"", payload)
    decoder = Decoder(1 << 20)
    tracemalloc.start()
    try:
        frames = [
            one for index in range(len(data)) for one in decoder.feed(data[index : index + 1])
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [one[4] for one in frames] == [payload]
    assert peak < 5 * len(data)
