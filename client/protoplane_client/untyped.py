"""Methods by their path, whose messages are bytes: for callers without the generated code."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from protoplane_base import Code, Codec, MethodKind, MethodSpec, PlaneError

_PATH = re.compile(r"/?([A-Za-z_][\w.]*)/([A-Za-z_]\w*)", re.ASCII)


class BytesCodec:
    """A codec whose values are encoded messages; their type is the other end's business."""

    def from_bytes(self, data: bytes, /) -> bytes:
        """The bytes as they are."""
        return bytes(data)

    def to_bytes(self, value: bytes, /) -> bytes:
        """The bytes as they are."""
        return value

    def from_pb(self, pb: Any, /) -> bytes:
        """Not possible: the type is not known."""
        raise NotImplementedError

    def to_pb(self, value: bytes, /) -> Any:
        """Not possible: the type is not known."""
        raise NotImplementedError

    def model_validate_json(
        self, json_data: str | bytes | bytearray, /, *, extra: Any = None
    ) -> bytes:
        """Not possible: the type is not known."""
        raise NotImplementedError

    def model_dump_json(self, value: bytes, /) -> str:
        """Not possible: the type is not known."""
        raise NotImplementedError


@lru_cache(1024)
def untyped_method(path: str) -> MethodSpec[bytes, bytes]:
    """The unary method at a path, ``/package.Service/Method`` with or without the first slash.

    The same path gives the same object, so that what is remembered of a method is.

    Raises:
        PlaneError: INVALID_ARGUMENT where it is no such path.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"{path[:80]!r} is no path of a method; one looks like "
            "/forge.captioner.v1.CaptionerService/ListStyles",
        )
    return MethodSpec(match[1], match[2], match[2], MethodKind.UNARY, UNTYPED, UNTYPED)


UNTYPED: Codec[Any] = BytesCodec()
"""The codec of all methods that `untyped_method` gives."""
