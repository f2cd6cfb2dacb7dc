"""Calls inside a process: nothing is serialized, and messages are handed over as copies.

Unlike the other carriers it moves no frames: where both ends share an event loop, there is nothing
to put into one. Who serves registers a `Host` under a name, ``inproc:<name>`` as an address, and
who calls looks it up.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Protocol

from protoplane_base import Code, Metadata, MethodSpec, PlaneError
from protoplane_runtime.link.errors import UnsentError

SCHEME = "inproc:"


class Host(Protocol):
    """What serves calls inside this process.

    Messages of streams it copies itself; the one request and the one answer of `unary` are copied
    by who calls.
    """

    @property
    def name(self) -> str:
        """Name of the instance, ``<component>/<id>``."""
        ...

    def unary(
        self,
        method: MethodSpec[Any, Any],
        request: Any,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> Coroutine[Any, Any, Any]:
        """Serve a call that has one answer, in the caller's own task.

        Args:
            method: Which one.
            request: The request, or an async generator of requests where the caller streams.
            metadata: What the caller sends along; the host may keep it.
            timeout_s: Seconds that the call has.

        Raises:
            PlaneError: The call failed.
        """
        ...

    def stream(
        self,
        method: MethodSpec[Any, Any],
        request: Any,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> AsyncGenerator[Any, None]:
        """Serve a call that has any number of answers; the caller closes what it gets."""
        ...


_hosts: dict[str, Host] = {}


@contextmanager
def hosted(name: str, host: Host) -> Generator[str]:
    """Let a host be called by a name, for as long as the block runs; gives its address.

    Raises:
        PlaneError: ALREADY_EXISTS where another has the name.
    """
    address = SCHEME + name
    if address in _hosts:
        raise PlaneError(
            Code.ALREADY_EXISTS, f"{address} is served in this process already; choose another name"
        )
    _hosts[address] = host
    try:
        yield address
    finally:
        del _hosts[address]


def host_at(address: str) -> Host:
    """Who is called at an address, ``inproc:<name>``.

    Raises:
        UnsentError: Nobody is.
    """
    host = _hosts.get(address)
    if host is None:
        there = ", ".join(_hosts) or "nothing"
        raise UnsentError(f"nothing is served as {address} in this process, only {there}")
    return host
