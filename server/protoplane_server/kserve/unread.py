"""Messages whose encoded form is left to who handles them, as it may not have to be read at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from protoplane_base import DecodeError, MethodSpec
from protoplane_server.errors import from_decode_error


class UnreadCodec:
    """Carries encoded messages as they are, and beside them the values of another codec.

    What comes in the wire format stays bytes, what comes as JSON is a value.

    Args:
        codec: The other codec.
    """

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        # As generated messages have it, for what asks a codec for its descriptor.
        self.__pb__ = codec.__pb__

    def read(self, value: Any, /) -> Any:
        """The value that bytes are; of a value itself that value.

        Raises:
            PlaneError: INVALID_ARGUMENT; the bytes are no such message.
        """
        if not isinstance(value, bytes):
            return value
        try:
            return self._codec.from_bytes(value)
        except DecodeError as error:
            raise from_decode_error(error) from error

    def from_pb(self, pb: Any, /) -> Any:
        """Read a protobuf object."""
        return self._codec.from_pb(pb)

    def to_pb(self, value: Any, /) -> Any:
        """Make a protobuf object.

        Raises:
            PlaneError: See `read`.
        """
        return self._codec.to_pb(self.read(value))

    def from_bytes(self, data: bytes, /) -> bytes:
        """The bytes themselves, whatever they are."""
        return data

    def to_bytes(self, value: Any, /) -> bytes:
        """Encode in the wire format."""
        data: bytes = value if isinstance(value, bytes) else self._codec.to_bytes(value)
        return data

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> Any:
        """Read ProtoJSON."""
        return self._codec.model_validate_json(json_data, extra=extra)

    def model_dump_json(self, value: Any, /) -> str:
        """Write ProtoJSON."""
        text: str = self._codec.model_dump_json(self.read(value))
        return text


def unread(method: MethodSpec[Any, Any], python_name: str) -> MethodSpec[Any, Any]:
    """An rpc whose messages may be bytes.

    Args:
        method: The rpc.
        python_name: Name of what handles it then.
    """
    return replace(
        method,
        python_name=python_name,
        request=UnreadCodec(method.request),
        response=UnreadCodec(method.response),
    )
