"""The details of an error as they travel: encoded messages with the names of their types."""

from __future__ import annotations

from google.protobuf import descriptor_pool
from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as PbMessage
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

# error_details_pb2 is imported so that its types are in the pool.
__all__ = ["error_details_pb2", "unpack", "unpack_status"]


def unpack(type_name: str, value: bytes) -> PbMessage:
    """Decode one detail; a type that is not known here, or bytes that do not fit, stay an Any."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_name)
        message = GetMessageClass(descriptor)()
        message.ParseFromString(value)
    except (KeyError, DecodeError):
        return PbAny(type_url=f"type.googleapis.com/{type_name}", value=value)
    return message


def unpack_status(data: bytes) -> tuple[PbMessage, ...]:
    """Decode the details of a ``google.rpc.Status``; none where the bytes are not one."""
    status = status_pb2.Status()
    try:
        status.ParseFromString(data)
    except DecodeError:
        return ()
    return tuple(
        unpack(detail.type_url.rpartition("/")[2], detail.value) for detail in status.details
    )
