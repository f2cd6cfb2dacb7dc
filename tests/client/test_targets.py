"""What a target may be."""

from __future__ import annotations

import pytest

from protoplane_base import Code, PlaneError
from protoplane_client.targets import Target, is_name, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("grpc://h:1", Target("grpc", "h:1")),
        ("grpcs://h.example:443", Target("grpc", "h.example:443", secure=True)),
        ("h:50051", Target("grpc", "h:50051")),
        ("[::1]:50051", Target("grpc", "[::1]:50051")),
        ("unix:/run/x.sock", Target("grpc", "unix:/run/x.sock")),
        ("unix:///run/x.sock", Target("grpc", "unix:/run/x.sock")),
        ("http://h:8080/", Target("http", "http://h:8080")),
        ("https://h/base", Target("http", "https://h/base", secure=True)),
    ],
)
def test_forms(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "ftp://h:1", "grpc://h", "h:0", "h:99999", "http://", "unix:", "a b", "h:1/x"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(PlaneError) as caught:
        parse_target(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("text", ["forge/captioner", "captioner"])
def test_a_name_is_no_address(text: str) -> None:
    assert is_name(text)
    with pytest.raises(PlaneError, match="is a name") as caught:
        parse_target(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "text", ["h:1", "unix:/x", "http://h", "a//b", "/a", "", "a b", "inproc:x"]
)
def test_an_address_is_no_name(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize("text", ["grpc://h:1", "grpcs://h:1", "unix:/x", "http://h", "inproc:x"])
def test_a_target_is_given_again(text: str) -> None:
    assert parse_target(parse_target(text).given) == parse_target(text)
