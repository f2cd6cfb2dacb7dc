"""Cross-origin calls: which pages in a browser may call this door.

Source: the CORS protocol of the Fetch standard, https://fetch.spec.whatwg.org/#http-cors-protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from protoplane_server.http.asgi import (
    NEAR,
    App,
    Headers,
    Message,
    Near,
    Receive,
    Scope,
    Send,
)

_ALLOW = b"access-control-allow-origin"
_METHODS = b"GET, POST, PUT, PATCH, DELETE, HEAD"

_EXPOSED = (
    b"connect-content-encoding, connect-protocol-version, content-encoding, grpc-message, "
    b"grpc-status, grpc-status-details-bin, last-event-id, openai-processing-ms, retry-after, "
    b"retry-after-ms, x-request-id, x-ratelimit-limit-requests, x-ratelimit-limit-tokens, "
    b"x-ratelimit-remaining-requests, x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, "
    b"x-ratelimit-reset-tokens"
)
"""Headers of answers that a page may read; a call with a token cannot be told ``*``."""

_MAX_AGE_S = b"7200"
"""How long a browser remembers the answer; Chromium takes no more."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s,*]+")


class Cors:
    """Tells browsers that pages of some origins may call an application.

    Tokens travel in ``authorization``, which a page sets itself; cookies are not asked for, so no
    page can call with what a browser knows of its user.

    Args:
        app: The application.
        origins: Origins of the pages, ``https://example.org`` for example; ``*`` for all.

    Raises:
        ValueError: One of them is no origin.
    """

    def __init__(self, app: App, origins: Iterable[str]) -> None:
        self._app = app
        given = frozenset(origins)
        for origin in given - {"*"}:
            if not _ORIGIN.fullmatch(origin.lower()):
                raise ValueError(
                    f"{origin!r} is no origin; one looks like https://example.org, without a path"
                )
        self._any = "*" in given
        self._origins = frozenset(origin.lower().encode() for origin in given)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        origin: bytes | None = headers.get(b"origin")
        said = self._said(origin)
        allowed = any(name == _ALLOW for name, _ in said)
        asks = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if origin is not None and asks:
            if allowed:
                said += _preflight(headers)
            await send({"type": "http.response.start", "status": 204, "headers": said})
            await send({"type": "http.response.body", "body": b""})
            return
        if allowed:
            said.append((b"access-control-expose-headers", _EXPOSED))

        near: Near | None = scope.get(NEAR)
        if near is not None:
            near.default_headers = [*near.default_headers, *said]
            await self._app(scope, receive, send)
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *said]
            await send(message)

        await self._app(scope, receive, tell if said else send)

    def _said(self, origin: bytes | None) -> Headers:
        """What an answer to a page says; what is kept of it must not be taken for another's."""
        if self._any:
            return [] if origin is None else [(_ALLOW, b"*")]
        if origin is not None and origin.lower() in self._origins:
            return [(_ALLOW, origin), (b"vary", b"origin")]
        return [(b"vary", b"origin")]


def _preflight(headers: dict[bytes, bytes]) -> Headers:
    """What a browser is told that asks before a call."""
    asked = headers.get(b"access-control-request-headers", b"authorization, content-type")
    return [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", asked),
        (b"access-control-max-age", _MAX_AGE_S),
    ]
