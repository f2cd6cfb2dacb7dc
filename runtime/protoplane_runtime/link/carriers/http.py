"""Links over HTTP (``link+http://host:port[/prefix]``, ``link+https://``): POST up, events down.

For networks that let nothing else through; the server's end is `protoplane_server.http.link`.

- ``POST <prefix>/link`` opens a link. The answer is a stream of server-sent events that lasts as
  long as the link. The first, ``link``, holds JSON with the secret ``id`` of the link and
  ``max_body_bytes``; those without a type hold bytes in base64; ``close`` ends the link in order.
  A stream that ends without it broke.
- ``POST <prefix>/link/<id>?n=<number>`` brings bytes up. Bodies are numbered from 0, and one
  follows when the one before it was answered with 204. An answer that does not come is the server's
  way of slowing this end down. The last body may be repeated, as its answer may have been lost.
- ``DELETE <prefix>/link/<id>`` closes it in order.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.http_names import CLOSED, OPENED, PATH
from protoplane_runtime.link.carriers.interface import Started
from protoplane_runtime.link.carriers.pumped import PumpedCarrier
from protoplane_runtime.tls import ClientTls

_BODY_BYTES = 512 * 1024
"""Largest body that is sent: proxies often refuse those of more than 1 MiB."""
_MAX_EVENT_BYTES = 4 * 1024 * 1024
_CONNECT_S = 10.0
_CLOSE_S = 5.0
_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")


async def connect(address: str, started: Started, tls: ClientTls | None) -> None:
    """See `carriers.opening.Connect`."""
    url = _url(address)
    verify: ssl.SSLContext | bool = True if tls is None else tls.ssl_context()
    client = httpx.AsyncClient(
        verify=verify,
        # A link pings, so it knows by itself when the other end is gone.
        timeout=httpx.Timeout(None, connect=_CONNECT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=4),
    )
    name = tls.server_name if tls is not None else None
    extensions = {"sni_hostname": name} if name else {}
    response: httpx.Response | None = None
    try:
        with _plane_errors(address):
            try:
                async with asyncio.timeout(_CONNECT_S):
                    request = client.build_request(
                        "POST",
                        url + PATH,
                        headers={"accept": "text/event-stream"},
                        extensions=extensions,
                    )
                    response = await client.send(request, stream=True)
                    await _check(address, response)
                    events = read_events(response.aiter_bytes())
                    opened = _Opened.parse(await anext(events, None), address)
            except TimeoutError as error:
                raise PlaneError(
                    Code.UNAVAILABLE, f"{address} did not answer within {_CONNECT_S:g} s"
                ) from error
        pump = _ClientPump(address, client, f"{url}{PATH}/{opened.id}", extensions, events)
        carrier = PumpedCarrier(
            started,
            pump,
            peer=url.partition("://")[2],
            write_bytes=max(1, min(_BODY_BYTES, opened.max_body_bytes)),
        )
    except BaseException:
        if response is not None:
            await response.aclose()
        await client.aclose()
        raise
    task = asyncio.get_running_loop().create_task(_run(carrier, client, response, events))
    _running.add(task)
    task.add_done_callback(_running.discard)


_running: set[asyncio.Task[None]] = set()
"""The loop keeps no strong reference to its tasks; a carrier's task lives as long as its stream."""


async def _run(
    carrier: PumpedCarrier,
    client: httpx.AsyncClient,
    response: httpx.Response,
    events: AsyncGenerator[Event, None],
) -> None:
    try:
        await carrier.run()
    finally:
        await events.aclose()
        await response.aclose()
        await client.aclose()


class _ClientPump:
    """The end of a link that connected; see `pumped.Pump`."""

    def __init__(
        self,
        address: str,
        client: httpx.AsyncClient,
        url: str,
        extensions: dict[str, str],
        events: AsyncGenerator[Event, None],
    ) -> None:
        self._address = address
        self._client = client
        self._url = url
        self._extensions = extensions
        self._events = events
        self._number = 0

    async def read(self) -> bytes | None:
        """See `Pump`."""
        with _plane_errors(self._address):
            while (event := await anext(self._events, None)) is not None:
                if event.type == CLOSED:
                    return None
                if not event.type:
                    return _unpacked(event.data)
        raise PlaneError(Code.UNAVAILABLE, f"{self._address}: the stream of events broke off")

    async def write(self, pieces: list[bytes]) -> None:
        """See `Pump`."""
        body = b"".join(pieces)
        url = f"{self._url}?n={self._number}"
        with _plane_errors(self._address):
            try:
                response = await self._post(url, body)
            except httpx.TransportError:
                # A connection that a server closes for idleness just then looks so. The number
                # keeps the server from taking the body twice.
                response = await self._post(url, body)
        if response.status_code != 204:
            raise _refused(self._address, response)
        self._number += 1

    async def finish(self) -> bool:
        """See `Pump`."""
        with _plane_errors(self._address):
            response = await self._client.delete(
                self._url, timeout=_CLOSE_S, extensions=self._extensions
            )
        if response.status_code != 204:
            raise _refused(self._address, response)
        return True

    async def _post(self, url: str, body: bytes) -> httpx.Response:
        return await self._client.post(
            url,
            content=body,
            headers={"content-type": "application/octet-stream"},
            extensions=self._extensions,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream: its type, empty for a plain one, and its data."""

    type: str
    data: bytes


async def read_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """The server-sent events in a body, as far as links use them.

    Raises:
        PlaneError: INVALID_ARGUMENT where an event is larger than any that a link needs.
    """
    rest: list[bytes] = []
    size = 0
    type_, data = "", b""
    async for chunk in chunks:
        rest.append(chunk)
        size += len(chunk)
        if size > _MAX_EVENT_BYTES:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"an event of more than {_MAX_EVENT_BYTES} bytes came"
            )
        if b"\n" not in chunk:
            continue
        *lines, last = b"".join(rest).split(b"\n")
        rest, size = [last], len(last)
        for line in lines:
            field, _, value = line.removesuffix(b"\r").partition(b":")
            if field == b"data":
                data += value.removeprefix(b" ")
            elif field == b"event":
                type_ = value.strip().decode("ascii", "replace")
            elif not line.strip() and (data or type_):
                yield Event(type_, data)
                type_, data = "", b""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What the first event says."""

    id: str
    max_body_bytes: int

    @classmethod
    def parse(cls, event: Event | None, address: str) -> _Opened:
        try:
            said: Any = json.loads(event.data) if event is not None and event.type == OPENED else {}
            id_, most = str(said["id"]), int(said["max_body_bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise PlaneError(Code.UNAVAILABLE, f"{address} takes no links over HTTP") from error
        # It becomes part of a URL.
        if not _ID.fullmatch(id_):
            raise PlaneError(Code.UNAVAILABLE, f"{address} gave its link no usable id")
        return cls(id_, most)


def _unpacked(data: bytes) -> bytes:
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"an event came that is no base64: {error}"
        ) from error


async def _check(address: str, response: httpx.Response) -> None:
    kind = response.headers.get("content-type", "")
    if response.status_code == 200 and kind.startswith("text/event-stream"):
        return
    await response.aread()
    raise _refused(address, response)


def _refused(address: str, response: httpx.Response) -> PlaneError:
    said = response.text.strip()[:200]
    return PlaneError(
        Code.UNAVAILABLE,
        f"{address} answered a link with {response.status_code}{': ' if said else ''}{said}",
    )


@contextmanager
def _plane_errors(address: str) -> Generator[None, None, None]:
    """Turn what httpx raises into `PlaneError`."""
    try:
        yield
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
        raise PlaneError(Code.UNAVAILABLE, f"{address}: {said}") from error
    except httpx.InvalidURL as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{address}: {error}") from error
    except (httpx.StreamError, RuntimeError) as error:
        # httpx says so where the client is closed meanwhile.
        raise PlaneError(Code.UNAVAILABLE, f"{address}: {error}") from error


def _url(address: str) -> str:
    url = address.removeprefix("link+").rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    port_is_one = parsed.port is None or 0 < parsed.port < 65536
    if not parsed.host or not port_is_one or parsed.query or parsed.fragment or parsed.userinfo:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{address!r} is no link's address; one looks like link+http://127.0.0.1:8080",
        )
    return url
