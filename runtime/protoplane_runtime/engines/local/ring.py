"""The ring: shared memory through which the processes of one folder hand each other new events.

One file, mapped by every process: a page of 64-bit words, then the frames. Positions only grow;
a position modulo the size is a place in the file. Who writes holds the file's lock, which the
kernel drops when its process dies, and sets the word ``DIRTY`` while things do not agree, so that
the next one can tell. Readers take no lock: before a writer overwrites a frame it moves ``TAIL``
past it, so a reader copies first and looks at ``TAIL`` afterwards; checksums catch the rest.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from zlib import crc32

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.local import frames

RING_BYTES = 8 * 1024 * 1024
"""Bytes of frames that a new ring holds."""

LOCK_TIMEOUT_S = 10.0
"""Seconds that a writer waits for its turn."""

_WORDS_BYTES = 4096
_FORMAT = 0x706C616E_00000001
_READ_BYTES = 256 * 1024


class Word(IntEnum):
    """The words at the start of the ring."""

    FORMAT = 0
    EPOCH = 1
    BOOT = 2
    SIZE = 3
    DIRTY = 4
    NEXT = 5
    """Sequence of the next event."""
    HEAD = 6
    """Position after the newest frame."""
    TAIL = 7
    """Position of the oldest frame."""
    FLOOR = 8
    """Greatest sequence that is no longer here."""
    LOST = 9
    """Greatest sequence of an ephemeral event that is no longer here."""
    TIME = 10
    """When the newest event was accepted; later ones are not earlier, whatever the clock does."""
    BELLS = 11
    """Changes when a reader hangs up a bell."""
    KEYS = 12
    """Changes when interned keys were dropped."""
    WANTED = 13
    """Not zero while a process waits for its turn to write."""
    HOLDER = 14
    """Process that writes, or wrote last."""


class Overrun(Exception):  # noqa: N818  # the reader's fate, not a fault
    """What a reader wanted was overwritten."""


class Ring:
    """The ring of one folder, as one process sees it.

    Args:
        path: The file; made where there is none.
        size: Bytes of frames that a new one holds; an old one keeps its size.

    Raises:
        OSError: The file cannot be made or mapped; ENOSPC where the disk has no room for it.
    """

    def __init__(self, path: Path, size: int = RING_BYTES) -> None:
        self._path = path
        self._words = memoryview(bytearray(_WORDS_BYTES)).cast("Q")  # Until the file is mapped.
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self.turn():
                # Real blocks, not a hole: a write to a mapped hole on a full disk ends the process.
                if os.fstat(self._fd).st_size == 0:
                    self._allocate(_WORDS_BYTES + size)
                self._map = mmap.mmap(self._fd, 0)
                self._words = memoryview(self._map)[:_WORDS_BYTES].cast("Q")
        except BaseException:
            os.close(self._fd)
            raise
        self._size = len(self._map) - _WORDS_BYTES

    def __getitem__(self, word: Word) -> int:
        return self._words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self._words[word] = value

    @property
    def replaced(self) -> bool:
        """Whether the file in the folder is another one by now, or gone."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        return there.st_ino != os.fstat(self._fd).st_ino

    @contextmanager
    def turn(self, timeout_s: float = LOCK_TIMEOUT_S) -> Generator[None]:
        """Hold the lock of the writers; for threads that may wait.

        Raises:
            PlaneError: UNAVAILABLE; another process held it all the time.
        """
        self._acquire(timeout_s)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            words = self._words
            if words[Word.WANTED]:
                # Those who wait look every now and then; without a pause they would find it taken.
                words[Word.WANTED] = 0
                time.sleep(0.000_3)

    def fits(self, epoch: int, last: int) -> bool:
        """Whether the ring goes on from a log of this epoch whose newest event is ``last``."""
        words = self._words
        return (
            words[Word.FORMAT] == _FORMAT
            and words[Word.EPOCH] == epoch
            and words[Word.BOOT] == _boot()
            and words[Word.SIZE] == self._size
            and not words[Word.DIRTY]
            and words[Word.NEXT] > last
        )

    def reset(self, epoch: int, next_sequence: int, lost: int) -> None:
        """Empty the ring; only in a turn.

        Args:
            epoch: Epoch of the log.
            next_sequence: The next event gets this sequence or a later one.
            lost: Sequences up to here may be those of ephemeral events, which are lost.
        """
        words = self._words
        known = words[Word.FORMAT] == _FORMAT and words[Word.SIZE] == self._size
        if known and words[Word.EPOCH] == epoch:
            next_sequence = max(next_sequence, words[Word.NEXT])
        # Greater than any position before, so that whoever reads sees that it was overrun.
        position = (words[Word.HEAD] + 2 * self._size) if known else self._size
        words[Word.DIRTY] = 1
        words[Word.TAIL] = words[Word.HEAD] = position
        words[Word.EPOCH] = epoch
        words[Word.BOOT] = _boot()
        words[Word.SIZE] = self._size
        words[Word.FLOOR] = next_sequence - 1
        words[Word.LOST] = min(lost, next_sequence - 1)
        words[Word.NEXT] = next_sequence
        words[Word.BELLS] = words[Word.KEYS] = time.time_ns()
        words[Word.FORMAT] = _FORMAT
        words[Word.DIRTY] = 0

    def append(self, frame: bytes, last: int, last_ephemeral: int) -> None:
        """Add a frame whose newest event is ``last``; only in a turn, while the ring is dirty."""
        words = self._words
        head = words[Word.HEAD]
        words[Word.NEXT] = last + 1
        if len(frame) > self._size // 2:
            # Whoever reads goes to the disk for what is durable, and is told of the rest.
            if last_ephemeral:
                words[Word.LOST] = last_ephemeral
            self._drop_until(head)
            words[Word.FLOOR] = last
            words[Word.TAIL] = words[Word.HEAD] = head + len(frame)
            return
        self._drop_until(head + len(frame) - self._size)
        at = head % self._size
        first = min(len(frame), self._size - at)
        start = _WORDS_BYTES + at
        self._map[start : start + first] = frame[:first]
        if first < len(frame):
            self._map[_WORDS_BYTES : _WORDS_BYTES + len(frame) - first] = frame[first:]
        words[Word.HEAD] = head + len(frame)

    def read(self, position: int, most: int = _READ_BYTES) -> tuple[list[memoryview], int]:
        """Frames from a position on, and the position after them; nothing where it is the head.

        Args:
            position: Where a frame begins.
            most: Bytes after which to stop; a longer frame comes alone.

        Raises:
            Overrun: They were overwritten, or are damaged.
        """
        head = self._words[Word.HEAD]
        if not self._words[Word.TAIL] <= position <= head:
            raise Overrun
        size = min(head - position, most)
        if size == 0:
            return [], position
        if size == most:
            length = int.from_bytes(self._copy(position, 4), "little")
            size = min(head - position, max(length, most))
        copied = self._copy(position, size)
        if self._words[Word.TAIL] > position:
            raise Overrun
        try:
            found = list(frames.whole(copied))
        except ValueError:
            raise Overrun from None
        if not found:
            raise Overrun
        return found, position + sum(map(len, found))

    def close(self) -> None:
        """Give the map and the file back."""
        self._words.release()
        self._map.close()
        os.close(self._fd)

    def _copy(self, position: int, size: int) -> bytes:
        at = position % self._size
        start = _WORDS_BYTES + at
        first = min(size, self._size - at)
        copied = self._map[start : start + first]
        if first < size:
            copied += self._map[_WORDS_BYTES : _WORDS_BYTES + size - first]
        return copied

    def _drop_until(self, position: int) -> None:
        words = self._words
        tail = words[Word.TAIL]
        while tail < position:
            head = frames.HEADER.unpack(self._copy(tail, frames.HEADER.size))
            size, _, _, last, lost, _ = head
            if size < frames.HEADER.size:
                raise PlaneError(
                    Code.DATA_LOSS, f"{self._path} is damaged; end its processes and remove it"
                )
            if lost:
                words[Word.LOST] = lost
            words[Word.FLOOR] = last
            tail += size
            words[Word.TAIL] = tail

    def _acquire(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        pause_s = 0.000_05
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._words[Word.WANTED] = 1
                if time.monotonic() > until:
                    holder = self._words[Word.HOLDER]
                    raise PlaneError(
                        Code.UNAVAILABLE,
                        f"process {holder or '?'} has held {self._path} for {timeout_s:g} s; "
                        "let it go on, or end it",
                    ) from None
                time.sleep(pause_s)
                pause_s = min(pause_s * 1.5, 0.000_5)
            else:
                self._words[Word.HOLDER] = os.getpid()
                return

    def _allocate(self, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError:
                os.ftruncate(self._fd, 0)
                raise
        else:
            os.write(self._fd, bytes(size))


def _boot() -> int:
    """A number that is another one after the machine was started anew; 0 where it is not known."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return 0
    return crc32(text)
