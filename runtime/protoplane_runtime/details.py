"""The details of an error as they travel: messages in ``google.protobuf.Any``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import any_pb2, descriptor_pool
from google.protobuf.message import DecodeError as PbDecodeError
from google.protobuf.message import Message as PbMessage
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2

from protoplane_base import DecodeError, UnknownTypeError, message_type

# error_details_pb2 is imported so that its types are in the pool.
__all__ = ["error_details_pb2", "pack_details", "unpack_details"]


def pack_details(details: Iterable[Any]) -> list[any_pb2.Any]:
    """Details, each a generated model or a protobuf message, as ``google.protobuf.Any``."""
    packed: list[any_pb2.Any] = []
    for detail in details:
        pb: PbMessage = detail if isinstance(detail, PbMessage) else detail.to_pb()
        if isinstance(pb, any_pb2.Any):
            packed.append(pb)
            continue
        box = any_pb2.Any()
        box.Pack(pb)
        packed.append(box)
    return packed


def unpack_details(details: Iterable[any_pb2.Any]) -> list[Any]:
    """The reverse of `pack_details`: models, else protobuf messages, else the ``Any`` itself."""
    return [_unpack(detail) for detail in details]


def _unpack(detail: any_pb2.Any) -> Any:
    name = detail.type_url.rpartition("/")[2]
    try:
        try:
            model: Any = message_type(name).from_bytes(detail.value)
            # The model of a wrapper is a bare number, which nobody could pack again.
            return model if hasattr(model, "to_pb") else detail
        except UnknownTypeError:
            found = descriptor_pool.Default().FindMessageTypeByName(name)
            return GetMessageClass(found).FromString(detail.value)
    except (KeyError, DecodeError, PbDecodeError):
        return detail
