"""Unary calls of the Connect protocol: a POST of JSON or protobuf, or a GET without side effects.

Source: https://connectrpc.com/docs/protocol#unary-request. The connectrpc library speaks the
protocol too, but only with messages of protobuf-py, so a request would have to be read twice and
an error could not name the field of our models; hence this module.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from protoplane_base import Code, Idempotency, MethodSpec, PlaneError
from protoplane_server.http.asgi import Exchange, Headers, Response
from protoplane_server.http.body import body_at_hand, read_body
from protoplane_server.http.compression import (
    MIN_BYTES,
    accepts_gzip,
    compress,
    decompress,
    encoding_of,
)
from protoplane_server.http.faults import HttpError
from protoplane_server.http.messages import JSON, PROTO, decode
from protoplane_server.http.state import DoorState
from protoplane_server.http.unary import call_unary

TRAILER = "trailer-"
"""What the names of trailers begin with, in the headers of an answer."""


async def post_unary(
    exchange: Exchange, state: DoorState, method: MethodSpec[Any, Any], content_type: bytes
) -> None:
    """Serve a POST."""
    headers = exchange.headers
    version = headers.get(b"connect-protocol-version")
    if version is not None and version != b"1":
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"connect-protocol-version is {version.decode('latin-1')!r}; only 1 is known",
        )
    data = body_at_hand(exchange, state)
    if data is None:
        data = await read_body(exchange, state)
    json = content_type == JSON
    request = state.reading.read(method, data) if json else decode(method, data, json=False)
    done = await call_unary(exchange, state, method, request, json=json, prefix=TRAILER)
    if done is not None:
        await exchange.answer(*reply(exchange.headers, content_type, *done))


async def get_unary(exchange: Exchange, state: DoorState, method: MethodSpec[Any, Any]) -> None:
    """Serve a GET with the message in the query."""
    if method.idempotency is not Idempotency.NO_SIDE_EFFECTS:
        raise HttpError(
            405,
            Code.UNIMPLEMENTED,
            f"{method.path} may have side effects, so it is called with POST",
            [(b"allow", b"POST")],
        )
    await read_body(exchange, state)
    query = parse_qs(exchange.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    content_type = _query_type(query)
    data = query_message(query, state.max_bytes)
    json = content_type == JSON
    request = decode(method, data, json=json)
    done = await call_unary(exchange, state, method, request, json=json, prefix=TRAILER)
    if done is not None:
        await exchange.answer(*reply(exchange.headers, content_type, *done))


def query_message(query: dict[str, list[str]], max_bytes: int) -> bytes:
    """The message in the query of a Connect GET.

    Raises:
        PlaneError: It is missing, or not in the form that the query says.
    """
    if "message" not in query:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            "the query lacks message=…; a GET looks like ?encoding=json&message={…}",
        )
    data = query["message"][-1].encode()
    if query.get("base64", ["0"])[-1] == "1":
        try:
            data = base64.b64decode(data.rstrip(b"=") + b"=" * (-len(data.rstrip(b"=")) % 4), b"-_")
        except binascii.Error as error:
            raise PlaneError(Code.INVALID_ARGUMENT, f"message is not base64url: {error}") from None
    if encoding_of(query.get("compression", ["identity"])[-1].encode()):
        data = decompress(data, max_bytes)
    return data


def _query_type(query: dict[str, list[str]]) -> bytes:
    encoding = query.get("encoding", ["json"])[-1]
    if encoding not in ("json", "proto"):
        raise HttpError(
            415, Code.INVALID_ARGUMENT, f"encoding is {encoding!r}; it is json or proto"
        )
    return JSON if encoding == "json" else PROTO


def reply(
    asked: Mapping[bytes, bytes], content_type: bytes, body: bytes, trailers: Headers
) -> Response:
    """The response with an answer, compressed where that is asked for and pays.

    Args:
        asked: Headers of the request.
        content_type: That of the answer.
        body: The answer.
        trailers: Its trailers, as headers.
    """
    headers: Headers = [(b"content-type", content_type)]
    if len(body) >= MIN_BYTES and accepts_gzip(asked.get(b"accept-encoding")):
        body = compress(body)
        headers.append((b"content-encoding", b"gzip"))
        headers.append((b"vary", b"accept-encoding"))
    headers.extend(trailers)
    return 200, headers, body
