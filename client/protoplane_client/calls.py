"""What all channels do alike: encode, decode, and send options along."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, TypeVar

from protoplane_base import (
    CallOptions,
    Code,
    DecodeError,
    EncodeError,
    MethodSpec,
    PlaneError,
)
from protoplane_runtime.calling import IDEMPOTENCY_KEY, outgoing_metadata
from protoplane_runtime.tracing import TRACEPARENT

_T = TypeVar("_T")

_NAME = re.compile(r"[a-z0-9_.-]+")


def encode(method: MethodSpec[_T, Any], request: _T) -> bytes:
    """Encode a request in the wire format.

    Raises:
        PlaneError: INVALID_ARGUMENT where it holds a value that its message cannot carry.
    """
    try:
        return method.request.to_bytes(request)
    except EncodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, str(error)) from error


def decode(method: MethodSpec[Any, _T], data: bytes) -> _T:
    """Decode an answer.

    Raises:
        PlaneError: INTERNAL where the bytes are not of the type that the schema promises.
    """
    try:
        return method.response.from_bytes(data)
    except DecodeError as error:
        raise PlaneError(Code.INTERNAL, f"the answer of {method.path}: {error}") from error


def full_metadata(options: CallOptions) -> list[tuple[str, str | bytes]]:
    """The metadata of a call, with names in lower case: also its idempotency key and its trace.

    A call that a handler makes belongs to the trace of the call that it serves, unless the caller
    gives a ``traceparent`` of its own.

    Raises:
        PlaneError: INVALID_ARGUMENT where a name or a value cannot travel.
    """
    pairs = [(name.lower(), value) for name, value in (options.get("metadata") or {}).items()]
    for name, value in pairs:
        if not _NAME.fullmatch(name) or name.startswith("grpc-"):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{name!r} is no name of metadata: letters, digits, '-', '_' and '.', and not "
                "grpc- at its start",
            )
        if name.endswith("-bin"):
            fits = isinstance(value, bytes)
        else:
            fits = isinstance(value, str) and value.isascii() and value.isprintable()
        if not fits:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"metadata {name!r} holds {value!r}; names that end in -bin carry bytes, all "
                "others printable ASCII",
            )
    key = options.get("idempotency_key")
    if key is not None:
        pairs.append((IDEMPOTENCY_KEY, key))
    trace = outgoing_metadata()
    if trace and all(name != TRACEPARENT for name, _ in pairs):
        pairs += trace
    return pairs


class Outgoing:
    """The requests of a stream on their way out.

    What their source raises ends the call and is kept in ``error``: the transport would turn it
    into a mere cancellation.
    """

    def __init__(self, method: MethodSpec[_T, Any], requests: AsyncIterable[_T]) -> None:
        self._method = method
        self._requests = requests
        self.error: Exception | None = None
        self.done = False

    async def encoded(self) -> AsyncIterator[bytes]:
        """Each request in the wire format."""
        try:
            async for request in self._requests:
                yield encode(self._method, request)
            self.done = True
        except Exception as error:
            self.error = error
            raise
