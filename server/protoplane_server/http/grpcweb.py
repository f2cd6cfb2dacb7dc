"""gRPC-Web: gRPC for browsers, its trailers in a last frame of the body.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md.
"""

from __future__ import annotations

import base64
import binascii

from protoplane_base import Code, PlaneError
from protoplane_base.services import Metadata
from protoplane_server.errors import to_status
from protoplane_server.http.envelope import envelope
from protoplane_server.http.metadata import grpc_timeout_s, header_text

TRAILERS = 0x80
"""Flag of the frame that holds the trailers."""


class GrpcWeb:
    """The `Dialect` of ``application/grpc-web`` and its relatives.

    Args:
        content_type: With ``-text`` the body is base64; with ``+json`` messages are JSON.
    """

    encoding_header = b"grpc-encoding"
    accept_header = b"grpc-accept-encoding"
    reserved_flags = 0xFE

    def __init__(self, content_type: bytes) -> None:
        self.content_type = content_type
        self.json = content_type.endswith(b"+json")
        self._text = content_type.startswith(b"application/grpc-web-text")
        self._rest = b""

    def timeout_s(self, headers: dict[bytes, bytes]) -> float | None:
        """Seconds that ``grpc-timeout`` allows."""
        return grpc_timeout_s(headers)

    def unwrap(self, data: bytes) -> bytes:
        """Undo base64, which may be padded in the middle, where a client encoded in pieces."""
        if not self._text:
            return data
        data = self._rest + b"".join(data.split())
        whole = len(data) - len(data) % 4
        self._rest = data[whole:]
        step = 4 if b"=" in data[: max(whole - 4, 0)] else max(whole, 4)
        try:
            return b"".join(
                base64.b64decode(data[at : min(at + step, whole)], validate=True)
                for at in range(0, whole, step)
            )
        except binascii.Error as error:
            raise PlaneError(Code.INVALID_ARGUMENT, f"the body is not base64: {error}") from None

    def wrap(self, frames: bytes) -> bytes:
        """Do base64 where the client speaks text."""
        return base64.b64encode(frames) if self._text else frames

    def end(self, error: PlaneError | None, trailers: Metadata) -> bytes:
        """A frame of trailers with the status."""
        lines = [f"grpc-status: {0 if error is None else int(error.code)}"]
        if error is not None:
            lines.append(f"grpc-message: {header_text(error.message.replace('%', '%25'))}")
            if error.details:
                packed = to_status(error).SerializeToString()
                lines.append(f"grpc-status-details-bin: {header_text(packed)}")
        lines += [f"{name}: {header_text(value)}" for name, value in trailers.items()]
        return envelope(TRAILERS, "".join(f"{line}\r\n" for line in lines).encode())
