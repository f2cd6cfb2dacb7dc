"""The Connect protocol as bytes: envelopes, errors, metadata in headers. Pure.

Source: https://connectrpc.com/docs/protocol.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, cast

from protoplane_base import Code, PlaneError
from protoplane_client.details import unpack

COMPRESSED = 0b01
END_STREAM = 0b10
_HEAD = 5

_CODES = {code.connect_name: code for code in Code if code is not Code.OK}
# For answers that do not come from a Connect server, such as a proxy's.
_BY_STATUS = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def envelope(data: bytes, flags: int = 0) -> bytes:
    """One message of a stream: flags, length, bytes."""
    return bytes((flags,)) + len(data).to_bytes(4, "big") + data


class EnvelopeReader:
    """Cuts a response into the messages of its stream.

    Args:
        max_message_bytes: Largest message that is accepted.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._buffer = bytearray()
        self._limit = max_message_bytes

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished message are held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes and give flags and bytes of each message that they complete.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED as soon as a message announces more than the limit.
        """
        buffer = self._buffer
        buffer += data
        messages: list[tuple[int, bytes]] = []
        start = 0
        while len(buffer) - start >= _HEAD:
            size = int.from_bytes(buffer[start + 1 : start + _HEAD], "big")
            if size > self._limit:
                raise too_large(size, self._limit)
            end = start + _HEAD + size
            if len(buffer) < end:
                break
            messages.append((buffer[start], bytes(buffer[start + _HEAD : end])))
            start = end
        del buffer[:start]
        return messages


def too_large(size: int, limit: int) -> PlaneError:
    """The error of an answer past the limit."""
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"the answer has {size} bytes and this client takes {limit}; raise max_message_bytes",
    )


class HttpError(PlaneError):
    """An error with the HTTP status that it came with."""

    status: int = 0


def error_of_response(status: int, body: bytes) -> HttpError:
    """The error of a response whose status is not 200."""
    error = _error_of_response(status, body)
    told = HttpError(error.code, error.message, error.details)
    told.status = status
    return told


def _error_of_response(status: int, body: bytes) -> PlaneError:
    fallback = _BY_STATUS.get(status, Code.UNKNOWN)
    try:
        content: Any = json.loads(body)
    except ValueError:
        content = None
    if isinstance(content, dict) and "code" in content:
        return error_of_json(cast("dict[str, Any]", content), fallback)
    text = body[:200].decode(errors="replace").strip().partition("\n")[0]
    return PlaneError(fallback, f"HTTP status {status}" + (f": {text}" if text else ""))


def error_of_json(content: Mapping[str, Any], fallback: Code = Code.UNKNOWN) -> PlaneError:
    """The error that a Connect error object describes."""
    code = _CODES.get(str(content.get("code")), fallback)
    details: list[Any] = []
    listed: list[Any] = content["details"] if isinstance(content.get("details"), list) else []
    for detail in listed:
        try:
            details.append(unpack(str(detail["type"]), from_base64(str(detail["value"]))))
        except (KeyError, TypeError, ValueError):
            continue
    message = str(content.get("message") or f"the call failed with {code.name}")
    return PlaneError(code, message, details)


def error_of_end(data: bytes) -> PlaneError | None:
    """The error that the last message of a stream carries; ``None`` where it went well."""
    try:
        content: Any = json.loads(data)
    except ValueError:
        return PlaneError(Code.INTERNAL, "the stream's last message is not JSON")
    if not isinstance(content, dict):
        return PlaneError(Code.INTERNAL, "the stream's last message is not a JSON object")
    error: Any = cast("dict[str, Any]", content).get("error")
    return error_of_json(cast("dict[str, Any]", error)) if isinstance(error, dict) else None


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, str]]:
    """Metadata as headers; bytes become base64."""
    return [
        (
            name,
            value if isinstance(value, str) else base64.b64encode(value).rstrip(b"=").decode(),
        )
        for name, value in metadata
    ]


def from_base64(text: str) -> bytes:
    """Decode base64 with or without padding.

    Raises:
        ValueError: It is not base64.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
