"""Forms of encoded messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_server.kserve.forms import Form
from protoplane_server.kserve.schema import messages

some = st.binary(min_size=1, max_size=40)


def request(name: str, contents: list[bytes]) -> Any:
    asked = messages.ModelInferRequest(model_name=name, raw_input_contents=contents)
    for each in contents:
        asked.inputs.add(name="X", datatype="UINT8", shape=[len(each)])
    return asked


def form(name: str, contents: list[bytes]) -> Form:
    return Form.of_field(request(name, contents), "raw_input_contents")


@given(st.text(max_size=10), st.lists(some, max_size=4), st.data())
def test_contents_come_out_and_go_in(name: str, contents: list[bytes], data: st.DataObject) -> None:
    made = form(name, contents)
    others = [data.draw(st.binary(min_size=len(each), max_size=len(each))) for each in contents]
    for each in (contents, others):
        encoded = request(name, each).SerializeToString()
        assert made.match(encoded) == each
        assert made.fill(each) == encoded


@given(st.lists(some, min_size=1, max_size=3), st.data())
def test_what_differs_besides_has_not_the_form(contents: list[bytes], data: st.DataObject) -> None:
    made = form("name", contents)
    encoded = bytearray(request("name", contents).SerializeToString())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    found = made.match(bytes(encoded))
    if found is not None:
        # What was changed is then among the contents, and nothing else is.
        assert request("name", found).SerializeToString() == encoded
        assert found != contents


@given(some, st.integers(-5, 5).filter(bool))
def test_other_lengths_have_not_the_form(contents: bytes, more: int) -> None:
    made = form("name", [contents])
    encoded = request("name", [contents]).SerializeToString()
    assert made.match(encoded[:more] if more < 0 else encoded + bytes(more)) is None


def test_texts_are_contents_too() -> None:
    response = messages.ModelInferResponse(model_name="m", raw_output_contents=[b"abc"])

    def encode(contents: Any) -> bytes:
        response.id = contents[0].decode()
        response.raw_output_contents[:] = contents[1:]
        data: bytes = response.SerializeToString()
        return data

    made = Form(encode, [5, 3])
    assert made.match(encode([b"first", b"xyz"])) == [b"first", b"xyz"]


def test_contents_that_cannot_be_told_apart() -> None:
    with pytest.raises(AssertionError):
        Form(b"".join, [2, 2])
