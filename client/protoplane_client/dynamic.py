"""Codecs of messages that no generated package declares: known by reflection, or only as JSON."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as PbDecodeError
from google.protobuf.message import Message as PbMessage

from protoplane_base import DecodeError


class PbCodec:
    """A codec whose values are protobuf objects.

    Args:
        message: Class of the messages.
        pool: Where the types of Any are looked up; the default pool where absent.
    """

    def __init__(self, message: type[PbMessage], pool: DescriptorPool | None = None) -> None:
        self.message = message
        self._pool = pool

    def from_pb(self, pb: Any, /) -> PbMessage:
        """The value as it is."""
        value: PbMessage = pb
        return value

    def to_pb(self, value: PbMessage, /) -> PbMessage:
        """The value as it is."""
        return value

    def from_bytes(self, data: bytes, /) -> PbMessage:
        """Decode the wire format.

        Raises:
            DecodeError: It is not of this type.
        """
        value = self.message()
        try:
            value.ParseFromString(data)
        except PbDecodeError as error:
            raise DecodeError(str(error)) from error
        return value

    def to_bytes(self, value: PbMessage, /) -> bytes:
        """Encode in the wire format."""
        return value.SerializeToString()

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> PbMessage:
        """Read ProtoJSON.

        Raises:
            DecodeError: It is not of this type.
        """
        try:
            return json_format.Parse(
                json_data,  # type: ignore[arg-type, unused-ignore]
                self.message(),
                ignore_unknown_fields=extra == "ignore",
                descriptor_pool=self._pool,
            )
        except json_format.ParseError as error:
            raise DecodeError(str(error)) from error

    def model_dump_json(self, value: PbMessage, /) -> str:
        """Write ProtoJSON on one line."""
        content = json_format.MessageToDict(value, descriptor_pool=self._pool)
        return json.dumps(content, ensure_ascii=False)


class JsonCodec:
    """A codec whose values are JSON texts, and whose wire format is that text."""

    def from_pb(self, pb: Any, /) -> str:
        """Not possible: the type is not known."""
        raise NotImplementedError

    def to_pb(self, value: str, /) -> Any:
        """Not possible: the type is not known."""
        raise NotImplementedError

    def from_bytes(self, data: bytes, /) -> str:
        """Read UTF-8.

        Raises:
            DecodeError: It is not UTF-8.
        """
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise DecodeError(str(error)) from error

    def to_bytes(self, value: str, /) -> bytes:
        """Write UTF-8."""
        return value.encode()

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> str:
        """The text as it is."""
        return json_data if isinstance(json_data, str) else bytes(json_data).decode()

    def model_dump_json(self, value: str, /) -> str:
        """The text as it is."""
        return value
