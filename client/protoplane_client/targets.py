"""What a target names: how to reach a component."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.inprocess import SCHEME as INPROC
from protoplane_runtime.link.carriers.opening import PREFIX as LINK
from protoplane_runtime.link.carriers.opening import connector

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_FORMS = (
    "grpc://host:port, grpcs://host:port, http://host:port, https://host:port, unix:/path, "
    "link+tcp://host:port, link+unix:/path, inproc:name"
)


Door = Literal["grpc", "http", "link", "inproc"]
"""What a target leads to."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target.

    Attributes:
        door: Door that it leads to.
        address: What gRPC dials, the base URL for HTTP, else the target as it is.
        secure: Whether TLS is spoken.
    """

    door: Door
    address: str
    secure: bool = False

    @property
    def given(self) -> str:
        """It as text that means the same."""
        if self.door == "grpc" and not self.address.startswith("unix:"):
            return f"grpc{'s' if self.secure else ''}://{self.address}"
        return self.address


def parse_target(text: str) -> Target:
    """Read a target: a URL, ``unix:/path``, or ``host:port`` which means gRPC.

    A link's address begins with ``link+``, and ``inproc:<name>`` is served by this process.

    Raises:
        PlaneError: INVALID_ARGUMENT where it has none of these forms, also for the name of a
            component, which only discovery can resolve.
    """
    if text.startswith(LINK):
        # It says what is wrong with the address, or missing for it.
        connector(text)
        return Target("link", text)
    if text.startswith(INPROC) and text != INPROC:
        return Target("inproc", text)
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
    if is_name(text):
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{text!r} is a name, and here goes an address: {_FORMS}; connect({text!r}) alone "
            "finds who has the name",
        )
    raise _malformed(text)


def is_name(text: str) -> bool:
    """Whether a target is the path of an instance, a component or a collection."""
    return _NAME.fullmatch(text) is not None


def _is_host_port(text: str) -> bool:
    match = _HOST_PORT.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65536


def _malformed(text: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{text!r} is not a target; give one of {_FORMS}")
