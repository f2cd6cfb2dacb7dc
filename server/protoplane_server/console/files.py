"""The page's own files, as a browser may keep them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Final

from protoplane_server.http.asgi import Exchange, Headers
from protoplane_server.http.compression import MIN_BYTES, accepts_gzip

PAGE: Final = "index.html"
"""Name of the page among them."""

_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

_POLICY = b"; ".join(
    (
        b"default-src 'none'",
        b"script-src 'self'",
        b"style-src 'self'",
        # Previews of jobs come inside of JSON.
        b"img-src 'self' data: blob:",
        # What the page holds, the API key above all, goes nowhere else.
        b"connect-src 'self'",
        b"base-uri 'none'",
        b"form-action 'none'",
        b"frame-ancestors 'none'",
        b"require-trusted-types-for 'script'",
        b"trusted-types 'none'",
    )
)

HEADERS: Final[Headers] = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Asked for anew each time, and answered with 304 while nothing has changed.
    (b"cache-control", b"no-cache"),
    (b"vary", b"accept-encoding"),
]
"""What goes with every file.

Source: https://www.w3.org/TR/CSP3/ and https://www.w3.org/TR/trusted-types/.
"""


@dataclass(frozen=True, slots=True)
class File:
    """One file.

    Attributes:
        content_type: Its media type.
        etag: Changes with it. It is a weak one, for it is the same of both forms.
        body: Its bytes.
        packed: The same with gzip; empty where that gains nothing.
    """

    content_type: bytes
    etag: bytes
    body: bytes
    packed: bytes


def load_files() -> Mapping[str, File]:
    """The files by name, from this package."""
    folder = resources.files(__package__ or "").joinpath("static")
    return {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file()
    }


async def serve_file(exchange: Exchange, file: File) -> None:
    """Answer a GET or HEAD with a file, or with word that the one the browser has is as new."""
    headers: Headers = [*HEADERS, (b"etag", file.etag)]
    known = exchange.headers.get(b"if-none-match", b"")
    if known.strip() == b"*" or file.etag in (each.strip() for each in known.split(b",")):
        await exchange.start(304, headers)
        await exchange.finish()
        return
    headers.append((b"content-type", file.content_type))
    body = file.body
    if file.packed and accepts_gzip(exchange.headers.get(b"accept-encoding")):
        headers.append((b"content-encoding", b"gzip"))
        body = file.packed
    await exchange.answer(200, headers, body)


def _file(name: str, body: bytes) -> File:
    packed = gzip.compress(body, mtime=0) if len(body) >= MIN_BYTES else b""
    etag = f'W/"{sha256(body).hexdigest()[:32]}"'.encode()
    return File(_TYPES[f".{name.rpartition('.')[2]}"], etag, body, packed)
