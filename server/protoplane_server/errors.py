"""What every failure looks like to a caller, whichever door it came through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.rpc import error_details_pb2, status_pb2
from pydantic import ValidationError

from protoplane_base import Code, DecodeError, PlaneError, Violation
from protoplane_runtime.details import pack_details, unpack_details

_MAX_SHOWN = 3


def bad_request(faults: Sequence[Violation]) -> PlaneError:
    """INVALID_ARGUMENT with a ``google.rpc.BadRequest`` that has one entry for each fault."""
    detail = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=field_path(fault.path), description=fault.message, reason=fault.rule
            )
            for fault in faults
        ]
    )
    shown = [
        f"{field_path(fault.path)}: {fault.message}" if fault.path else fault.message
        for fault in faults[:_MAX_SHOWN]
    ]
    if len(faults) > _MAX_SHOWN:
        shown.append(f"and {len(faults) - _MAX_SHOWN} more")
    return PlaneError(Code.INVALID_ARGUMENT, "; ".join(shown), [detail])


def from_validation_error(error: ValidationError) -> PlaneError:
    """INVALID_ARGUMENT for a request that does not fit its schema, each fault with its field."""
    return bad_request(
        [
            Violation(fault["loc"], fault["type"], fault["msg"])
            for fault in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    )


def from_decode_error(error: Exception) -> PlaneError:
    """INVALID_ARGUMENT for a request that could not be decoded.

    Args:
        error: What a codec raised: `DecodeError`, ``pydantic.ValidationError`` or another
            ``ValueError``.
    """
    if isinstance(error, ValidationError):
        return from_validation_error(error)
    if isinstance(error, DecodeError):
        return PlaneError(Code.INVALID_ARGUMENT, f"the request cannot be decoded: {error}")
    return PlaneError(Code.INVALID_ARGUMENT, "the request cannot be decoded")


def from_encode_error(error: Exception) -> PlaneError:
    """INTERNAL for an answer that its message cannot carry; the door has logged ``error``."""
    return PlaneError(
        Code.INTERNAL,
        f"the answer cannot be encoded ({type(error).__name__}); see the server's log",
    )


def message_too_large(size: int, limit: int, what: str) -> PlaneError:
    """RESOURCE_EXHAUSTED for a message past ``max_message_bytes``.

    Args:
        size: Its size in bytes.
        limit: The most that is allowed.
        what: ``request`` or ``response``.
    """
    return PlaneError(
        Code.RESOURCE_EXHAUSTED,
        f"the {what} has {size} bytes and max_message_bytes is {limit}; "
        "send less at once or raise the limit of the server",
    )


def field_path(path: Iterable[str | int]) -> str:
    """A path as ``google.rpc.BadRequest`` writes it, for example ``items[2].name``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def to_status(error: PlaneError) -> status_pb2.Status:
    """The error as the message that all doors send."""
    return status_pb2.Status(
        code=int(error.code), message=error.message, details=pack_details(error.details)
    )


def from_status(status: status_pb2.Status) -> PlaneError:
    """The error that a status stands for; its details are unpacked where their types are known."""
    try:
        code = Code(status.code)
    except ValueError:
        code = Code.UNKNOWN
    return PlaneError(code, status.message, unpack_details(status.details))
