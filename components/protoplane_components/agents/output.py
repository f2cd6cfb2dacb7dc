"""Reads what an agent wrote, from the ring that its supervisor writes; also after both ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from protoplane_components.agents.supervisor import CHUNK_BYTES, HEADER

_TRIES = 100


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a stream.

    Attributes:
        offset: Where it begins.
        data: Its bytes.
        dropped: Bytes before it that were asked for, and are not kept any more.
        end: Whether nothing comes after it.
    """

    offset: int
    data: bytes
    dropped: int
    end: bool

    @property
    def next_offset(self) -> int:
        """Where the next piece begins."""
        return self.offset + len(self.data)


def read_piece(path: Path, offset: int, most: int) -> Piece:
    """Read a piece of what is there; it may be empty.

    Args:
        path: The ring.
        offset: Where to begin, in bytes from the first that was ever written.
        most: Bytes at most.

    Raises:
        OSError: The ring cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        tries = 0
        while True:
            end, size, kept, closed = HEADER.unpack(os.pread(file, HEADER.size, 0))
            start = min(max(offset, end - kept), max(end, offset))
            tries += 1
            # So fast a writer leaves nothing to read; what is asked for next is newer.
            count = min(most, max(0, end - start)) if tries < _TRIES else 0
            data = _read(file, start, count, size) if count else b""
            # The supervisor goes on writing meanwhile, and writes before it tells so.
            now = HEADER.unpack(os.pread(file, HEADER.size, 0))[0]
            if start >= now - (size - CHUNK_BYTES) or not count:
                over = bool(closed) and start + len(data) >= end
                return Piece(start, data, start - offset, over)
    finally:
        os.close(file)


def _read(file: int, start: int, count: int, size: int) -> bytes:
    at = start % size
    data = os.pread(file, min(count, size - at), HEADER.size + at)
    if len(data) < count:
        data += os.pread(file, count - len(data), HEADER.size)
    return data
