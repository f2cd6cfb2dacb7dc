"""The event stream parser against the standard's own examples, split at every byte."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_client.sse import EventStreamError, EventStreamParser

CASES: list[tuple[bytes, list[tuple[str, str, str]]]] = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
        [("message", "first event", "1"), ("message", "second event", ""),
         ("message", " third", "")],
    ),
    (b"data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    (b"data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
    (b"\xef\xbb\xbfdata: bom\n\n", [("message", "bom", "")]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: two boms\n\n", []),
    (b"data: a\rdata: b\r\rdata: c\r\n\r\n", [("message", "a\nb", ""), ("message", "c", "")]),
    (b"data: a\r\ndata: b\n\r\n", [("message", "a\nb", "")]),
    (b"event: x\n\ndata: typeless\n\n", [("message", "typeless", "")]),
    (b"event: x\ndata: y\n\ndata: z\n\n", [("x", "y", ""), ("message", "z", "")]),
    (b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n", [("message", "a", "1"), ("message", "b", "1")]),
    (b"id: 7\n\ndata: a\n\n", [("message", "a", "7")]),
    (b"data: lost, no empty line\n", []),
    (b"data: \xff\xc3\n\n", [("message", "\ufffd\ufffd", "")]),
    ("data: ü€😀\n\n".encode(), [("message", "ü€😀", "")]),
    (b":\ndata: a\n:\n\n", [("message", "a", "")]),
    (b"Data: case\n data: space\nnonsense\n\n", []),
    ("data: a\u2028b\x0bc\x85d\n\n".encode(), [("message", "a\u2028b\x0bc\x85d", "")]),
]  # fmt: skip


def parse(chunks: list[bytes]) -> list[tuple[str, str, str]]:
    parser = EventStreamParser()
    return [(e.type, e.data, e.id) for chunk in chunks for e in parser.feed(chunk)]


@pytest.mark.parametrize(("stream", "expected"), CASES)
def test_whole_and_split_at_every_byte(stream: bytes, expected: list[tuple[str, str, str]]) -> None:
    assert parse([stream]) == expected
    assert parse([stream[i : i + 1] for i in range(len(stream))]) == expected
    for cut in range(len(stream) + 1):
        assert parse([stream[:cut], stream[cut:]]) == expected


@pytest.mark.parametrize(
    ("value", "retry_ms"),
    [("100", 100), ("0", 0), ("-1", None), ("1e3", None), ("1.5", None), ("١", None), ("", None)],
)
def test_retry_takes_ascii_digits_only(value: str, retry_ms: int | None) -> None:
    parser = EventStreamParser()
    parser.feed(f"retry: {value}\n".encode())
    assert parser.retry_ms == retry_ms


def test_an_id_without_data_moves_the_place_only_at_the_empty_line() -> None:
    parser = EventStreamParser("1")
    parser.feed(b"id: 2\n")
    assert parser.last_event_id == "1"
    parser.feed(b"\n")
    assert parser.last_event_id == "2"


def test_fields_of_our_own_are_kept() -> None:
    (event,) = EventStreamParser().feed(b"id: 1-2\nkey: a/b\ndata: {}\n\n")
    assert event.extra == {"key": "a/b"}


def test_an_endless_event_is_cut_off() -> None:
    parser = EventStreamParser(max_event_chars=1000)
    parser.feed(b"data: 0123456789\n" * 40)
    with pytest.raises(EventStreamError, match="1000"):
        parser.feed(b"data: 0123456789\n" * 40)
    endless = EventStreamParser(max_event_chars=1000)
    endless.feed(b"0123456789" * 60)
    with pytest.raises(EventStreamError):
        endless.feed(b"0123456789" * 60)


def reference(text: str) -> list[tuple[str, str, str]]:
    """The standard's algorithm, word by word."""
    events: list[tuple[str, str, str]] = []
    data, type_, last_id, buffered_id = "", "", "", ""
    lines = re.split("\r\n|\n|\r", text.removeprefix("\ufeff"))[:-1]
    for line in lines:
        if line == "":
            last_id = buffered_id
            if data:
                events.append((type_ or "message", data.removesuffix("\n"), last_id))
            data = type_ = ""
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            type_ = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            buffered_id = value
    return events


pieces = st.sampled_from(
    ["data", "id", "event", "retry", ":", " ", "\n", "\r", "\r\n", "\n\n", "\0", "1", "ü", "\ufeff"]
)


@given(st.lists(pieces, max_size=40).map("".join), st.lists(st.integers(0, 80), max_size=6))
def test_any_stream_cut_anywhere(text: str, cuts: list[int]) -> None:
    stream = text.encode()
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in itertools.pairwise(places)]
    assert parse(chunks) == reference(text)
