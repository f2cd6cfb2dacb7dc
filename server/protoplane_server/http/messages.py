"""Messages as bytes: JSON or protobuf, in and out, with the bound on their size."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from protoplane_base import DecodeError, Message, MethodSpec
from protoplane_server.errors import from_decode_error, message_too_large

JSON = b"application/json"
PROTO = b"application/proto"

# Each call passes here, and what Pydantic wraps around its core takes as long as a small message.
_READ = vars(Message)["model_validate_json"].__func__
_WRITE = BaseModel.model_dump_json


def decode(method: MethodSpec[Any, Any], data: bytes, *, json: bool) -> Any:
    """Read a request.

    Raises:
        PlaneError: INVALID_ARGUMENT, with a violation for each field that is at fault.
    """
    try:
        if not json:
            return method.request.from_bytes(data)
        codec: Any = method.request
        read = codec.model_validate_json
        if getattr(read, "__func__", None) is _READ:
            read = codec.__pydantic_validator__.validate_json
        return read(data)
    except (ValidationError, DecodeError) as error:
        raise from_decode_error(error) from None


def encode(method: MethodSpec[Any, Any], response: Any, max_bytes: int, *, json: bool) -> bytes:
    """Write a response.

    Raises:
        PlaneError: RESOURCE_EXHAUSTED where it takes more than ``max_bytes``.
    """
    codec: Any = method.response
    data: bytes
    if not json:
        data = codec.to_bytes(response)
    elif codec.model_dump_json is _WRITE:
        data = codec.__pydantic_serializer__.to_json(response)
    else:
        data = codec.model_dump_json(response).encode()
    if len(data) > max_bytes:
        raise message_too_large(len(data), max_bytes, "response")
    return data
