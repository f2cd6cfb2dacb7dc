"""Streaming calls of the Connect protocol (https://connectrpc.com/docs/protocol#streaming-rpcs).

Over HTTP/1.1 too, each side at its own pace, where the client can do that.
"""

from __future__ import annotations

import json
from typing import Any

from protoplane_base import PlaneError
from protoplane_base.services import Metadata
from protoplane_server.http.envelope import envelope
from protoplane_server.http.faults import error_document
from protoplane_server.http.metadata import connect_timeout_s, header_text

END_STREAM = 0x02
"""Flag of the frame that ends a response."""


class ConnectStream:
    """The `Dialect` of ``application/connect+json`` and ``application/connect+proto``.

    Args:
        content_type: Which of the two.
    """

    encoding_header = b"connect-content-encoding"
    accept_header = b"connect-accept-encoding"
    reserved_flags = 0xFE

    def __init__(self, content_type: bytes) -> None:
        self.content_type = content_type
        self.json = content_type.endswith(b"+json")

    def timeout_s(self, headers: dict[bytes, bytes]) -> float | None:
        """Seconds that ``Connect-Timeout-Ms`` allows."""
        return connect_timeout_s(headers)

    def unwrap(self, data: bytes) -> bytes:
        """The body is frames already."""
        return data

    def wrap(self, frames: bytes) -> bytes:
        """The body is frames as they are."""
        return frames

    def end(self, error: PlaneError | None, trailers: Metadata) -> bytes:
        """A frame of JSON with the error and the trailers."""
        document: dict[str, Any] = {}
        if error is not None:
            document["error"] = error_document(error)
        if trailers:
            document["metadata"] = {name: [header_text(value)] for name, value in trailers.items()}
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        return envelope(END_STREAM, text.encode())
