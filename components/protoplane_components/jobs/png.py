"""PNG: arrays of pixels to bytes and back.

Source: PNG (Third Edition), W3C Recommendation 24 June 2025.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""Pixels: ``[height, width, 3]`` of uint8, red, green and blue."""

MEDIA_TYPE = "image/png"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_MAX_PIXELS = 64_000_000


def encode(pixels: Pixels, level: int = 6) -> bytes:
    """Pixels as a PNG of 8 bits a channel.

    Args:
        pixels: ``[height, width, 3]``.
        level: How hard zlib tries, 0 to 9.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # The first byte of a row: no filter.
    rows[:, 1:] = pixels.reshape(height, width * 3)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), level)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def decode(data: bytes) -> Pixels:
    """The pixels of a PNG; transparency is left out, grey becomes colour.

    Raises:
        ValueError: It is none, is damaged, has a palette, other than 8 bits a channel or is
            interlaced.
    """
    if not data.startswith(_SIGNATURE):
        raise ValueError("this is no PNG")
    at, packed = len(_SIGNATURE), bytearray()
    shape: tuple[int, int, int] | None = None
    while at + 12 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if zlib.crc32(kind + body) != int.from_bytes(data[at + 8 + length : at + 12 + length]):
            raise ValueError("a piece of this PNG is damaged")
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            if depth != 8 or interlaced or colour not in _CHANNELS:
                raise ValueError("this kind of PNG cannot be read here")
            shape = height, width, _CHANNELS[colour]
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    if shape is None or not 0 < shape[0] * shape[1] <= _MAX_PIXELS:
        raise ValueError("this PNG has no size that can be read here")
    height, width, channels = shape
    try:
        raw = zlib.decompressobj().decompress(bytes(packed), height * (1 + width * channels))
        rows = np.frombuffer(raw, np.uint8).reshape(height, 1 + width * channels)
    except (zlib.error, ValueError) as error:
        raise ValueError("the pixels of this PNG are damaged") from error
    pixels = _unfiltered(rows, channels).reshape(height, width, channels)
    return np.repeat(pixels[:, :, :1], 3, axis=2) if channels < 3 else pixels[:, :, :3]


def _unfiltered(rows: Pixels, step: int) -> Pixels:
    found = np.zeros((rows.shape[0] + 1, rows.shape[1] - 1 + step), np.uint8)
    for number, row in enumerate(rows, 1):
        above, line, kind = found[number - 1], found[number], int(row[0])
        if kind == 0:
            line[step:] = row[1:]
        elif kind == 2:
            line[step:] = row[1:] + above[step:]
        elif kind in (1, 3, 4):
            for index in range(step, len(line)):
                left, up, corner = (
                    int(line[index - step]),
                    int(above[index]),
                    int(above[index - step]),
                )
                guess = (left, (left + up) // 2, _paeth(left, up, corner))[(1, 3, 4).index(kind)]
                line[index] = (int(row[1 + index - step]) + guess) & 255
        else:
            raise ValueError(f"this PNG has a filter {kind}; there are 0 to 4")
    return found[1:, step:]


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda each: abs(guess - each))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
