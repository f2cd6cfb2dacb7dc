"""What an event says, as bytes and as JSON, whichever of the two its publisher gave."""

from __future__ import annotations

import json
from typing import NamedTuple

from pydantic import ValidationError

from protoplane.v1 import PublishRequest
from protoplane_base import (
    Code,
    DecodeError,
    EventSpec,
    PlaneError,
    UnknownTypeError,
    message_type,
)
from protoplane_runtime.engines.interface import Event
from protoplane_server.errors import from_decode_error


class Payload(NamedTuple):
    """What an engine's log holds of an event.

    Attributes:
        data: The message in the protobuf wire format; JSON text where the type is not known here.
        json: The message as ProtoJSON, on one line.
        durable: Whether the type's schema says that it is durable.
    """

    data: bytes
    json: str
    durable: bool


def read_payload(request: PublishRequest) -> Payload:
    """Make of an event what the log holds of it.

    Raises:
        PlaneError: INVALID_ARGUMENT for an event without a type or a message, a message that is
            none of its type, or bytes of a type that is not known here.
    """
    if not request.type:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"what is published under {request.key!r}? give the full name of its type",
        )
    try:
        codec = message_type(request.type)
    except UnknownTypeError:
        return _unknown(request)
    try:
        if request.data is not None:
            message = codec.from_bytes(request.data)
        elif request.json_text is not None:
            message = codec.model_validate_json(request.json_text)
        else:
            raise _nothing(request)
    except (ValidationError, DecodeError) as error:
        raise from_decode_error(error) from None
    spec: EventSpec | None = getattr(codec, "__event__", None)
    data = codec.to_bytes(message) if request.data is None else request.data
    return Payload(data, codec.model_dump_json(message), spec is not None and spec.durable)


def written(event: Event, *, as_json: bool) -> tuple[bytes | None, str | None]:
    """The message of an event as a subscriber gets it: bytes or JSON, and the other is absent."""
    if as_json or event.data == event.json.encode():
        return None, event.json
    return event.data, None


def _unknown(request: PublishRequest) -> Payload:
    """An event of a type that is not known here: its publisher knows what it says."""
    if request.json_text is None:
        if request.data is None:
            raise _nothing(request)
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{request.type} is not known here, so its bytes cannot be read; give the message as "
            "JSON too, or ask a component whose package declares it",
        )
    try:
        text = json.dumps(json.loads(request.json_text), ensure_ascii=False, separators=(",", ":"))
    except ValueError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"the message is no JSON: {error}") from None
    return Payload(text.encode() if request.data is None else request.data, text, False)


def _nothing(request: PublishRequest) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT, f"{request.key} has no message; give it as data or as json_text"
    )
