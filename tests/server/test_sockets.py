"""Addresses and the sockets behind them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from protoplane_runtime.sockets import Address, bind, listen


@pytest.mark.parametrize(
    ("text", "address", "again"),
    [
        (50051, Address("127.0.0.1", 50051), "127.0.0.1:50051"),
        ("50051", Address("127.0.0.1", 50051), "127.0.0.1:50051"),
        (":80", Address("0.0.0.0", 80), "0.0.0.0:80"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("unix:/run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
        ("unix:///run/x.sock", Address(path="/run/x.sock"), "unix:/run/x.sock"),
        ("unix:x.sock", Address(path="x.sock"), "unix:x.sock"),
    ],
)
def test_addresses(text: str | int, address: Address, again: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == again


@pytest.mark.parametrize("text", ["", "here", "here:", "here:http", "here:-1", "1:65536", "unix:"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="one looks like"):
        Address.parse(text)


def test_a_taken_port_is_said_plainly() -> None:
    first, address = listen(Address("127.0.0.1", 0))
    with first, pytest.raises(OSError, match=f"127.0.0.1:{address.port} is taken"):
        bind(address)


def test_ports_can_be_shared_on_purpose() -> None:
    first, address = listen(Address("127.0.0.1", 0), reuse_port=True)
    second, again = listen(address, reuse_port=True)
    with first, second:
        assert again == address


def test_an_unknown_host() -> None:
    with pytest.raises(OSError, match=r"cannot listen on|nowhere"):
        bind(Address("nowhere.invalid", 0))


def test_unix_sockets(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "x.sock"))
    first, _ = listen(address)
    with first, pytest.raises(OSError, match="is taken"):
        bind(address)
    # Nobody listens on the file any more.
    second, _ = listen(address)
    second.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(OSError, match="is taken"):
        bind(Address(path=str(path)))
    assert path.read_text() == "data"


def test_a_socket_accepts() -> None:
    listener, address = listen(Address("127.0.0.1", 0))
    with listener, socket.create_connection((address.host, address.port), timeout=5):
        pass
