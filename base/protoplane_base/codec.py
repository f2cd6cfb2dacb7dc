"""What every type that can travel alone offers: the seam between generated types and the doors.

A generated message class is a codec of its own instances. Well-known types whose Python value is a
plain one (``google.protobuf.StringValue`` is a ``str``) have a codec class beside it.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class Codec(Protocol[_T]):
    """Turns values of one proto message type into bytes, JSON and protobuf objects, and back.

    All methods are called on the class with the value as first argument, as in
    ``CaptionRequest.to_bytes(request)``.
    """

    def from_pb(self, pb: Any, /) -> _T:
        """Read a protobuf object; see `Message.from_pb`."""
        ...

    def to_pb(self, value: _T, /) -> Any:
        """Make a protobuf object; see `Message.to_pb`."""
        ...

    def from_bytes(self, data: bytes, /) -> _T:
        """Decode the wire format; see `Message.from_bytes`."""
        ...

    def to_bytes(self, value: _T, /) -> bytes:
        """Encode in the wire format; see `Message.to_bytes`."""
        ...

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> _T:
        """Read ProtoJSON; see `Message.model_validate_json`."""
        ...

    def model_dump_json(self, value: _T, /) -> str:
        """Write ProtoJSON."""
        ...
