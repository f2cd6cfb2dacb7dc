"""Metadata of a call as HTTP headers, in both directions; ``-bin`` values travel as base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Container, Iterable, Iterator, Mapping

from protoplane_base import Code, PlaneError
from protoplane_base.services import Metadata
from protoplane_server.http.asgi import Headers

# What belongs to HTTP or to a protocol on top of it, not to the call.
_NOT_METADATA = frozenset(
    b"accept accept-encoding connection content-encoding content-length content-type expect host "
    b"keep-alive te trailer transfer-encoding upgrade x-grpc-web".split()
)
_NOT_METADATA_PREFIXES = (b"connect-", b"grpc-", b"sec-")


class RequestMetadata(Mapping[str, str | bytes]):
    """The headers of a request, decoded only once a handler looks at them.

    A header that is repeated has its values joined by a comma and a space; binary values are
    joined as they are.

    Args:
        headers: The headers, names in lower case.
        names: What has their names; by default they are made.
    """

    __slots__ = ("_headers", "_names", "_values")

    def __init__(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        names: Container[bytes] | None = None,
    ) -> None:
        self._headers = headers
        self._names = frozenset(name for name, _ in headers) if names is None else names
        self._values: dict[str, str | bytes] | None = None

    def _decoded(self) -> dict[str, str | bytes]:
        if self._values is None:
            values: dict[str, str | bytes] = {}
            for name, raw in self._headers:
                if name in _NOT_METADATA or name.startswith(_NOT_METADATA_PREFIXES):
                    continue
                key = name.decode("latin-1")
                value: str | bytes = (
                    _from_base64(raw) if key.endswith("-bin") else raw.decode("latin-1")
                )
                before = values.get(key)
                if isinstance(before, str) and isinstance(value, str):
                    value = f"{before}, {value}"
                elif isinstance(before, bytes) and isinstance(value, bytes):
                    value = before + value
                values[key] = value
            self._values = values
        return self._values

    def __getitem__(self, name: str) -> str | bytes:
        return self._decoded()[name]

    def __contains__(self, name: object) -> bool:
        # Asked of every call, mostly in vain: that must not cost decoding them all.
        if self._values is None and isinstance(name, str) and name.encode() not in self._names:
            return False
        return name in self._decoded()

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())


def header_text(value: str | bytes) -> str:
    """A metadata value as a header can carry it: bytes as base64, text without control characters.

    Text outside ASCII is percent-encoded as UTF-8, as gRPC does with its status message.
    """
    if isinstance(value, bytes):
        return base64.b64encode(value).rstrip(b"=").decode()
    return "".join(
        char if " " <= char <= "~" else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in value
    )


def metadata_headers(metadata: Metadata, prefix: str = "") -> Headers:
    """Metadata as response headers."""
    return [
        ((prefix + name).encode("latin-1"), header_text(value).encode())
        for name, value in metadata.items()
    ]


def connect_timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds that ``Connect-Timeout-Ms`` allows.

    Raises:
        PlaneError: INVALID_ARGUMENT for anything but up to ten digits.
    """
    text = headers.get(b"connect-timeout-ms")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 10:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"connect-timeout-ms is {text.decode('latin-1')!r}; "
            "it takes a whole number of at most ten digits",
        )
    return int(text) / 1000


_GRPC_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def grpc_timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds that ``grpc-timeout`` allows.

    Raises:
        PlaneError: INVALID_ARGUMENT for anything but up to eight digits and a unit.
    """
    text = headers.get(b"grpc-timeout")
    if text is None:
        return None
    number, unit = text[:-1], _GRPC_UNITS_S.get(text[-1:])
    if unit is None or not number.isdigit() or len(number) > 8:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"grpc-timeout is {text.decode('latin-1')!r}; it takes up to eight digits and a unit",
        )
    return int(number) * unit


def _from_base64(raw: bytes) -> bytes:
    try:
        return b"".join(
            base64.b64decode(part.strip() + b"=" * (-len(part.strip()) % 4))
            for part in raw.split(b",")
        )
    except binascii.Error:
        return raw
