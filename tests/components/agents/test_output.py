"""The ring that a supervisor writes and a host reads."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_components.agents.output import read_piece
from protoplane_components.agents.supervisor import CHUNK_BYTES, Ring


@given(
    writes=st.lists(st.integers(1, 9000), max_size=40),
    offset=st.integers(0, 200_000),
    most=st.integers(1, 50_000),
    closed=st.booleans(),
)
def test_what_is_read_is_what_was_written(
    writes: list[int], offset: int, most: int, closed: bool
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "stdout")
        ring, whole = Ring(path, 4096, block=False), b""
        for number, size in enumerate(writes):
            data = bytes((number + at) % 251 for at in range(size))
            ring.write(data)
            whole += data
        if closed:
            ring.close()
        piece = read_piece(path, offset, most)
        start = min(max(offset, len(whole) - 4096), max(offset, len(whole)))
        assert piece.offset == start
        assert piece.data == whole[start : start + most]
        assert piece.dropped == start - offset
        assert piece.end == (closed and piece.next_offset >= len(whole))
        if not closed:
            ring.close()


def test_reading_while_it_is_overwritten(tmp_path: Path) -> None:
    total, path = 40_000_000, tmp_path / "stdout"
    pattern = bytes(range(251)) * 600
    ring = Ring(path, 100_000, block=False)

    def write() -> None:
        for at in range(0, total, CHUNK_BYTES):
            first = at % 251
            ring.write(pattern[first : first + min(CHUNK_BYTES, total - at)])
        ring.close()

    writer = threading.Thread(target=write)
    writer.start()
    offset, end = 0, False
    while not end:
        piece = read_piece(path, offset, 50_000)
        first = piece.offset % 251
        assert piece.data == pattern[first : first + len(piece.data)]
        assert piece.offset == offset + piece.dropped
        offset, end = piece.next_offset, piece.end
    writer.join()
    assert offset == total


@pytest.mark.parametrize(("taken", "full"), [(0, True), (1, False), (5000, False)])
def test_a_ring_that_makes_its_writer_wait(tmp_path: Path, taken: int, full: bool) -> None:
    ring = Ring(tmp_path / "stdout", 4096, block=True)
    states: list[bool] = []
    for size in (4095, 1):
        ring.write(b"x" * size)
        states.append(ring.full)
    assert [*pairwise(states)] == [(False, True)]
    ring.taken = min(taken, ring.end)
    assert ring.full is full
    # What a pipe held at the end is kept as well.
    ring.write(b"y" * CHUNK_BYTES)
    ring.close()
    piece = read_piece(tmp_path / "stdout", 0, 1 << 20)
    assert piece.data == b"x" * 4096 + b"y" * CHUNK_BYTES
    assert piece.end
