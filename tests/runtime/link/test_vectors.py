"""The test vectors, read by a decoder that shares nothing with the link's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.link.pair import Accepting, bring, link_error, settings
from tests.runtime.link.wire import HEADERS, described, frame, hello, split
from tools.link_vectors import vectors

from protoplane_base import PlaneError
from protoplane_runtime.link.frames import Decoder, encode
from protoplane_runtime.link.headers import decode_close, decode_open, encode_close, encode_open

FOLDER = Path(__file__).parent / "vectors"


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


FRAMES: list[dict[str, Any]] = read("frames.json")
EXCHANGES: list[dict[str, Any]] = read("exchanges.json")
CONVERSATION: dict[str, Any] = read("conversation.json")


def named(items: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", items, ids=[str(item["name"]) for item in items])


def test_they_are_what_the_tool_makes() -> None:
    on_disk = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert on_disk == vectors(), "run python tools/link_vectors.py"


def test_there_is_one_of_every_type_and_flag() -> None:
    said = [vector["frame"] for vector in FRAMES]
    types = {frame["type"] for frame in said}
    assert types == {*HEADERS, "MESSAGE", "HALF_CLOSE", "CANCEL", "PING", "PONG"}
    assert {flag for frame in said for flag in frame.get("flags", [])} == {
        "END",
        "MORE",
        "COMPRESSED",
    }


@named(FRAMES)
def test_a_frame(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    [independent], rest = split(data)
    assert rest == b""
    assert described(independent) == vector["frame"]
    assert independent.encode() == data
    [ours] = Decoder(1 << 20).feed(data)
    assert ours == tuple(independent)
    assert encode(*ours) == data


@named([vector for vector in FRAMES if vector["frame"]["type"] == "OPEN"])
def test_the_header_of_an_open(vector: dict[str, Any]) -> None:
    header = split(bytes.fromhex(vector["hex"]))[0][0].header
    opened = decode_open(header)
    again = encode_open(opened.method, opened.metadata, opened.timeout_s, opened.target)
    assert again == header


@named([vector for vector in FRAMES if vector["frame"]["type"] == "CLOSE"])
def test_the_header_of_a_close(vector: dict[str, Any]) -> None:
    header = split(bytes.fromhex(vector["hex"]))[0][0].header
    error, trailers = decode_close(header)
    said = vector["frame"].get("header", {})
    unprocessed = bool(said.get("unprocessed"))
    assert encode_close(error, trailers, unprocessed=unprocessed) == header


@named(EXCHANGES)
def test_an_exchange(vector: dict[str, Any]) -> None:
    accepting = Accepting(settings(**vector["limits"]))
    data = bytes.fromhex(vector["hex"])
    error = link_error(lambda: bring(accepting.session, data))
    if "error" in vector:
        assert isinstance(error, PlaneError)
        assert error.code.name == vector["error"]
    else:
        assert error is None
        answered = [described(one) for one in split(accepting.session.take())[0]]
        assert [one for one in answered if one["type"] != "HELLO"] == vector["answer"]


def test_the_conversation_says_what_its_bytes_say() -> None:
    for step in CONVERSATION["steps"]:
        frames, rest = split(bytes.fromhex(step["hex"]))
        assert rest == b""
        assert [described(one) for one in frames] == step["frames"], step["description"]
        assert b"".join(one.encode() for one in frames).hex() == step["hex"]
    assert {step["from"] for step in CONVERSATION["steps"]} == {"caller", "acceptor"}
    assert all(step["description"] for step in CONVERSATION["steps"])


def test_the_example_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "link.md").read_text(encoding="utf-8")
    example = page[page.index("## An example") : page.index("## Test vectors")]
    lines = "".join(re.findall(r"^```text\n(.*?)^```$", example, re.MULTILINE | re.DOTALL))
    assert bytes.fromhex(lines) == b"".join(
        [
            hello(),
            hello(name="b"),
            frame("OPEN", 1, "END", b"hi", method="/a.B/C"),
            frame("CLOSE", 1, "END", b"hello"),
            frame("OPEN", 3, "END", method="/a.B/D"),
            frame("CLOSE", 3, code=5, message="no"),
        ]
    )
