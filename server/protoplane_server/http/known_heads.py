"""Heads of requests that were read before on their connection.

A client that keeps its connection mostly sends the same head again, but for the length of the body.
To find that out takes less than to read it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from protoplane_server.http.at_once import Ready

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)
_END = b"\r\n\r\n"
_MOST = 4
_MOST_BYTES = 4096
_PATIENCE = 8


class KnownHead(NamedTuple):
    """A head.

    Attributes:
        before: What comes before the length of the body.
        after: What comes behind it.
        scope: What ASGI says of it; the length among its headers is that of the first request.
        ready: What answers such requests at once, if something does.
    """

    before: bytes
    after: bytes
    scope: dict[str, Any]
    ready: Ready | None


class KnownHeads:
    """The last few heads of a connection.

    It gives up on a client that never sends one again, whose heads bear a trace for example.
    """

    __slots__ = ("_heads", "_misses")

    def __init__(self) -> None:
        self._heads: list[KnownHead] = []
        self._misses = 0

    def find(self, data: bytes) -> tuple[KnownHead, bytes] | None:
        """The head of a request that has come whole, and alone, and its body.

        Args:
            data: What came, from the first byte of a request on.
        """
        for head in self._heads:
            before, after, _, _ = head
            if not data.startswith(before):
                continue
            at = len(before)
            end = data.find(b"\r", at, at + 10)
            begin = end + len(after)
            length = data[at:end]
            if (
                end > 0
                and data.startswith(after, end)
                and length.isdigit()
                and len(data) - begin == int(length)
            ):
                self._misses = 0
                return head, data[begin:]
        return None

    def learn(self, data: bytes, scope: dict[str, Any], ready: Ready | None) -> None:
        """Know a head from now on, if it is no long one and its request came whole and alone.

        Args:
            data: What came, from the first byte of the request on.
            scope: What ASGI says of it; it is copied.
            ready: What answers such requests at once, if something does.
        """
        if self._misses > _PATIENCE:
            return
        end = data.find(_END) + len(_END)
        length = _LENGTH.search(data, 0, end)
        if length is None or end > _MOST_BYTES or len(data) - end != int(length[1]):
            return
        self._misses += 1
        if self._misses > _PATIENCE:
            self._heads.clear()
            return
        if len(self._heads) >= _MOST:
            self._heads.pop(0)
        self._heads.append(
            KnownHead(
                data[: length.start(1)],
                data[length.end(1) : end],
                {**scope, "headers": tuple(scope["headers"])},
                ready,
            )
        )
