"""The details of an error, out of what a call's answer says of them."""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as PbAny
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from protoplane_runtime.details import unpack_details


def unpack(type_name: str, value: bytes) -> Any:
    """One detail as `unpack_details` gives it."""
    return unpack_details([PbAny(type_url=f"type.googleapis.com/{type_name}", value=value)])[0]


def unpack_status(data: bytes) -> tuple[Any, ...]:
    """The details of a ``google.rpc.Status``; none where the bytes are not one."""
    status = status_pb2.Status()
    try:
        status.ParseFromString(data)
    except DecodeError:
        return ()
    return tuple(unpack_details(status.details))
