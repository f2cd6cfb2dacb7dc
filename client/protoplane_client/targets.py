"""What a target names: how to reach a component."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from protoplane_base import Code, PlaneError

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_FORMS = "grpc://host:port, grpcs://host:port, http://host:port, https://host:port, unix:/path"


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target.

    Attributes:
        door: Door that it leads to.
        address: What gRPC dials, or the base URL for HTTP.
        secure: Whether TLS is spoken.
    """

    door: Literal["grpc", "http"]
    address: str
    secure: bool = False


def parse_target(text: str) -> Target:
    """Read a target: a URL, ``unix:/path``, or ``host:port`` which means gRPC.

    Raises:
        PlaneError: INVALID_ARGUMENT where it has none of these forms; UNIMPLEMENTED for the name
            of a component, which only discovery can resolve.
    """
    scheme, colon, _ = text.partition("://")
    if colon and scheme in ("http", "https"):
        url = urlsplit(text)
        if not url.hostname or url.query or url.fragment:
            raise _malformed(text)
        return Target("http", text.rstrip("/"), scheme == "https")
    if colon and scheme in ("grpc", "grpcs"):
        address = text.removeprefix(f"{scheme}://").rstrip("/")
        if not _is_host_port(address):
            raise _malformed(text)
        return Target("grpc", address, scheme == "grpcs")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise _malformed(text)
        return Target("grpc", f"unix:{path}")
    if _is_host_port(text):
        return Target("grpc", text)
    if not colon and _NAME.fullmatch(text):
        raise PlaneError(
            Code.UNIMPLEMENTED,
            f"{text!r} is a name, and finding components by name comes with the discovery "
            f"engines; until then give an address: {_FORMS}",
        )
    raise _malformed(text)


def _is_host_port(text: str) -> bool:
    match = _HOST_PORT.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65536


def _malformed(text: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{text!r} is not a target; give one of {_FORMS}")
