"""Headers of calls: metadata, deadlines and errors as protobuf. Pure.

Building and reading a header costs microseconds, so both are remembered where the same one comes
again and again; see `remembered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError as PbDecodeError
from google.protobuf.message import Message as PbMessage

from protoplane.v1.link_pb2 import Close, MetadataEntry, Open, TraceContext
from protoplane_base import Code, Metadata, PlaneError
from protoplane_runtime.calling import IDEMPOTENCY_KEY
from protoplane_runtime.details import pack_details, unpack_details
from protoplane_runtime.link.errors import LinkError, UnsentError
from protoplane_runtime.link.frames import MAX_HEADER_BYTES
from protoplane_runtime.tracing import TRACEPARENT, TRACESTATE

_P = TypeVar("_P", bound=PbMessage)
_T = TypeVar("_T")

_MAX_MESSAGE_CHARS = 8_000
_MAX_TIMEOUT_US = 2.0**63


@dataclass(frozen=True, slots=True)
class Opened:
    """What an OPEN says.

    Attributes:
        method: Path of the method.
        target: `EntityId` bytes of whom it is for; empty for anybody.
        metadata: What the caller sent along.
        timeout_s: Seconds that the call has left; ``None`` for any.
    """

    method: str
    target: bytes
    metadata: Metadata
    timeout_s: float | None


def encode_open(
    method: str, metadata: Metadata, timeout_s: float | None = None, target: bytes = b""
) -> bytes:
    """The header of an OPEN.

    Args:
        method: Path of the method.
        metadata: Names in lower case; an idempotency key and a trace among it get their fields.
        timeout_s: Seconds that the call has left.
        target: `EntityId` bytes of whom the call is for.

    Raises:
        PlaneError: INVALID_ARGUMENT where it is too long for a frame.
    """
    header = Open(method=method, target=target)
    if timeout_s is not None:
        header.timeout_us = int(min(max(0.0, timeout_s * 1e6), _MAX_TIMEOUT_US))
    if metadata:
        left = dict(metadata)
        key = left.pop(IDEMPOTENCY_KEY, None)
        if isinstance(key, str):
            header.idempotency_key = key
        parent, state = left.pop(TRACEPARENT, None), left.pop(TRACESTATE, None)
        if isinstance(parent, str):
            trace = TraceContext(traceparent=parent)
            if isinstance(state, str):
                trace.tracestate = state
            header.trace.CopyFrom(trace)
        header.metadata.extend(_entries(left))
    data = header.SerializeToString()
    if len(data) > MAX_HEADER_BYTES:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the metadata makes a header of {len(data)} bytes and a link takes "
            f"{MAX_HEADER_BYTES}; send it in the request",
        )
    return data


def decode_open(data: bytes) -> Opened:
    """What the header of an OPEN says.

    Raises:
        LinkError: INVALID_ARGUMENT where it is none.
    """
    header = parse(Open, data)
    metadata = _metadata(header.metadata)
    if header.idempotency_key:
        metadata[IDEMPOTENCY_KEY] = header.idempotency_key
    if header.HasField("trace"):
        metadata[TRACEPARENT] = header.trace.traceparent
        if header.trace.tracestate:
            metadata[TRACESTATE] = header.trace.tracestate
    timeout_s = header.timeout_us / 1e6 if header.HasField("timeout_us") else None
    return Opened(header.method, header.target, metadata, timeout_s)


def encode_close(
    error: PlaneError | None, trailers: Metadata, *, unprocessed: bool = False
) -> bytes:
    """The header of a CLOSE; empty for a success without trailers."""
    if error is None and not trailers:
        return b""
    header = Close(trailers=_entries(trailers), unprocessed=unprocessed)
    if error is not None:
        header.code = int(error.code if error.code is not Code.OK else Code.INTERNAL)
        header.message = shortened(error.message)
        header.details.extend(pack_details(error.details))
    data = header.SerializeToString()
    if len(data) > MAX_HEADER_BYTES:
        # Rather the error without what a program would read than no error at all.
        header.ClearField("details")
        header.message += " (the details are too large for the header of a frame)"
        data = header.SerializeToString()
    if len(data) > MAX_HEADER_BYTES:
        header.ClearField("trailers")
        data = header.SerializeToString()
    return data


def decode_close(data: bytes) -> tuple[PlaneError | None, Metadata]:
    """What the header of a CLOSE says: the error, if the call failed, and the trailers.

    Raises:
        LinkError: INVALID_ARGUMENT where it is none.
    """
    if not data:
        return None, {}
    header = parse(Close, data)
    trailers = _metadata(header.trailers)
    if header.code == 0:
        return None, trailers
    try:
        code = Code(header.code)
    except ValueError:
        code = Code.UNKNOWN
    if header.unprocessed:
        return UnsentError(header.message, code), trailers
    return PlaneError(code, header.message, unpack_details(header.details)), trailers


def shortened(message: str) -> str:
    """A message for a person as a header takes it: not too long, and encodable."""
    if len(message) > _MAX_MESSAGE_CHARS:
        message = message[: _MAX_MESSAGE_CHARS - 1] + "…"
    # Names of files may hold halves of characters, and an error about one must get through.
    return message.encode("utf-8", "replace").decode()


def parse(type_: type[_P], data: bytes) -> _P:
    """A header as its message.

    Raises:
        LinkError: INVALID_ARGUMENT where it is none.
    """
    message = type_()
    try:
        message.ParseFromString(data)
    except PbDecodeError as error:
        raise LinkError(
            Code.INVALID_ARGUMENT, f"a header of {len(data)} bytes is no {type_.__name__}"
        ) from error
    return message


def remembered(read: Callable[[bytes], _T], most: int = 256) -> Callable[[bytes], _T]:
    """The same function, which remembers what short headers said.

    Args:
        read: What reads a header; what it gives is shared, so nobody may change it.
        most: How many are remembered; after that it starts anew, which bounds the memory.
    """
    known: dict[bytes, _T] = {}

    def recall(data: bytes) -> _T:
        found = known.get(data)
        if found is None:
            found = read(data)
            if len(data) <= _MAX_REMEMBERED_BYTES:
                if len(known) >= most:
                    known.clear()
                known[data] = found
        return found

    return recall


_MAX_REMEMBERED_BYTES = 512


def _entries(metadata: Metadata) -> list[MetadataEntry]:
    return [
        MetadataEntry(name=name, data=value)
        if isinstance(value, bytes)
        else MetadataEntry(name=name, text=value)
        for name, value in metadata.items()
    ]


def _metadata(entries: Iterable[MetadataEntry]) -> dict[str, str | bytes]:
    return {
        entry.name: entry.data if entry.WhichOneof("value") == "data" else entry.text
        for entry in entries
    }
