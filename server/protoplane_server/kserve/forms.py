"""Encoded messages that differ in nothing but their contents, of the same lengths each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Self

_DIFFER = re.compile(rb"\x7f+")


class Form:
    """What such messages have in common: all bytes but those of the contents.

    A message that has the form says what the one said that the form was made of, so it need not be
    decoded to know what that is.

    Args:
        encode: Gives the message with other contents; these are valid UTF-8.
        lengths: Their lengths in bytes, none 0, in the order in which they are encoded.
    """

    __slots__ = ("_contents", "_parts", "_rest", "size")

    def __init__(self, encode: Callable[[Sequence[bytes]], bytes], lengths: Sequence[int]) -> None:
        low = encode([b"\0" * length for length in lengths])
        high = encode([b"\x7f" * length for length in lengths])
        differ = (int.from_bytes(low) ^ int.from_bytes(high)).to_bytes(len(low))
        spans = [found.span() for found in _DIFFER.finditer(differ)]
        assert [end - start for start, end in spans] == list(lengths)
        edges = [0, *(edge for span in spans for edge in span), len(low)]
        self._contents = [slice(*span) for span in spans]
        self._rest = [
            (slice(start, end), low[start:end])
            for start, end in zip(edges[::2], edges[1::2], strict=True)
        ]
        self._parts = [part for _, rest in self._rest for part in (rest, b"")][:-1]
        self.size = len(low)

    @classmethod
    def of_field(cls, message: Any, name: str) -> Self:
        """The form of a protobuf object whose contents are a repeated field; these change."""
        field = getattr(message, name)

        def encode(contents: Sequence[bytes]) -> bytes:
            field[:] = contents
            data: bytes = message.SerializeToString()
            return data

        return cls(encode, [len(each) for each in field])

    def match(self, data: bytes) -> list[bytes] | None:
        """The contents of a message; ``None`` for one that has not the form."""
        if len(data) != self.size:
            return None
        for place, rest in self._rest:
            if data[place] != rest:
                return None
        return [data[place] for place in self._contents]

    def fill(self, contents: Sequence[bytes]) -> bytes:
        """The message with other contents, of the same lengths."""
        parts = self._parts.copy()
        parts[1::2] = contents
        return b"".join(parts)
