"""Encoders and parsers, for any input."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_server.http.compression import accepts_gzip, compress, decompress
from protoplane_server.http.envelope import EnvelopeReader, envelope
from protoplane_server.http.grpcweb import GrpcWeb
from protoplane_server.http.metadata import connect_timeout_s, grpc_timeout_s, header_text
from protoplane_server.http.sse import sse_event, sse_retry


def parse_events(stream: bytes) -> list[dict[str, str]]:
    """Events as the specification has a client dispatch them."""
    found: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    text = stream.decode().replace("\r\n", "\n").replace("\r", "\n")
    for line in text.split("\n"):
        if not line:
            if "data" in fields:
                found.append(fields)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    return found


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40))),
    st.lists(st.integers(1, 30), min_size=1),
)
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(envelope(flags, payload) for flags, payload in frames)
    reader = EnvelopeReader(40)
    found: list[tuple[int, bytes]] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        found += reader.feed(stream[at : at + size])
        at += size
        turn += 1
    reader.finish()
    assert found == frames


@given(st.binary(min_size=1, max_size=60), st.integers(1, 59))
def test_a_truncated_frame_is_an_error(payload: bytes, cut: int) -> None:
    stream = envelope(0, payload)
    reader = EnvelopeReader(100)
    assert reader.feed(stream[: -min(cut, len(payload))]) == []
    with pytest.raises(PlaneError) as caught:
        reader.finish()
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.binary())
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    reader = EnvelopeReader(1000)
    try:
        frames = reader.feed(data)
        reader.finish()
    except PlaneError:
        return
    assert b"".join(envelope(*frame) for frame in frames) == data


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=5))
def test_any_text_survives_as_events(texts: list[str]) -> None:
    stream = b":\n".join(sse_event(text, event="e", id_="1-2", key="a/b") for text in texts)
    found = parse_events(stream)
    assert [event["data"] for event in found] == [
        text.replace("\r\n", "\n").replace("\r", "\n") for text in texts
    ]
    assert all((event["event"], event["id"]) == ("e", "1-2") for event in found)


def test_a_retry_is_no_event() -> None:
    assert parse_events(sse_retry(5, id_="1-2")) == []
    assert sse_retry(5) == b"retry: 5\n\n"


@given(st.binary(max_size=2000))
def test_gzip_and_its_bound(data: bytes) -> None:
    assert decompress(compress(data), 2000) == data == gzip.decompress(compress(data))
    for bad in (compress(data)[:-1], b"", b"no gzip"):
        with pytest.raises(PlaneError):
            decompress(bad, 2000)
    if data:
        with pytest.raises(PlaneError) as caught:
            decompress(compress(data), len(data) - 1)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED


@given(st.lists(st.binary(max_size=20)), st.integers(1, 9))
def test_grpc_web_text_survives_any_cut(pieces: list[bytes], size: int) -> None:
    dialect = GrpcWeb(b"application/grpc-web-text")
    text = b"".join(dialect.wrap(piece) for piece in pieces)
    found = b"".join(dialect.unwrap(text[at : at + size]) for at in range(0, len(text), size))
    assert found == b"".join(pieces)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_header_values_are_printable_ascii(text: str) -> None:
    assert all(" " <= char <= "~" for char in header_text(text))


def test_timeouts() -> None:
    assert connect_timeout_s({}) is None
    assert connect_timeout_s({b"connect-timeout-ms": b"1500"}) == 1.5
    assert grpc_timeout_s({b"grpc-timeout": b"20m"}) == 0.02
    assert grpc_timeout_s({b"grpc-timeout": b"2H"}) == 7200
    for text in (b"", b"5", b"m", b"-1S", b"123456789S"):
        with pytest.raises(PlaneError):
            grpc_timeout_s({b"grpc-timeout": text})
    for text in (b"", b"-5", b"1.5", b"12345678901"):
        with pytest.raises(PlaneError):
            connect_timeout_s({b"connect-timeout-ms": text})


@pytest.mark.parametrize(
    ("header", "accepted"),
    [(None, False), (b"br, gzip;q=0.5", True), (b"gzip;q=0", False), (b"identity", False)],
)
def test_who_takes_gzip(header: bytes | None, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted
