"""Codecs of well-known types whose Python value is a plain one."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter

from protoplane_base import wire

_T = TypeVar("_T")


class PlainCodec(Generic[_T]):
    """What the codec classes of wrappers and of ``Struct`` share; none is ever instantiated."""

    __pb__: ClassVar[Any]
    _annotation: ClassVar[Any]

    @classmethod
    def from_pb(cls, pb: Any, /) -> _T:
        """Read a protobuf object."""
        raise NotImplementedError

    @classmethod
    def to_pb(cls, value: _T, /) -> Any:
        """Make a protobuf object."""
        raise NotImplementedError

    @classmethod
    def from_bytes(cls, data: bytes, /) -> _T:
        """Decode the wire format.

        Raises:
            DecodeError: ``data`` is not a message of this type.
        """
        return cls.from_pb(wire.parse(cls.__pb__(), data))

    @classmethod
    def to_bytes(cls, value: _T, /) -> bytes:
        """Encode in the wire format."""
        return wire.serialize(cls.to_pb(value))

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, /, *, extra: Any = None) -> _T:
        """Read ProtoJSON.

        Raises:
            pydantic.ValidationError: The text is no JSON, or no value of this type.
        """
        value: _T = _adapter(cls._annotation).validate_json(json_data)
        return value

    @classmethod
    def model_dump_json(cls, value: _T, /) -> str:
        """Write ProtoJSON."""
        return _adapter(cls._annotation).dump_json(value).decode()


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    config = ConfigDict(ser_json_bytes="utf8", ser_json_inf_nan="strings")
    return TypeAdapter(annotation, config=config)
