"""Messages as bytes: JSON or protobuf, in and out, with the bound on their size."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from protoplane_base import DecodeError, MethodSpec
from protoplane_server.errors import from_decode_error, message_too_large

JSON = b"application/json"
PROTO = b"application/proto"


def decode(method: MethodSpec[Any, Any], data: bytes, *, json: bool) -> Any:
    """Read a request.

    Raises:
        PlaneError: INVALID_ARGUMENT, with a violation for each field that is at fault.
    """
    try:
        if json:
            return method.request.model_validate_json(data)
        return method.request.from_bytes(data)
    except (ValidationError, DecodeError) as error:
        raise from_decode_error(error) from None


def encode(method: MethodSpec[Any, Any], response: Any, max_bytes: int, *, json: bool) -> bytes:
    """Write a response.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED where it takes more than ``max_bytes``.
    """
    if json:
        data = method.response.model_dump_json(response).encode()
    else:
        data = method.response.to_bytes(response)
    if len(data) > max_bytes:
        raise message_too_large(len(data), max_bytes, "response")
    return data
