"""An index as pieces that can be sent and kept, and the file of them in the object plane.

The file is a line that names it, then records: 4 bytes of length (big-endian) and so many bytes.
The first record is a JSON header, each other an `IndexPiece` in the protobuf wire format, with 16
bytes a block and a few for each run of blocks that follow each other; a record without bytes ends
it. So neither side holds more than a piece at a time.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from protoplane.router.v1 import IndexPiece, IndexRun, StorageTier
from protoplane_base import Code, DecodeError, PlaneError
from protoplane_components.kv_router.following import Course
from protoplane_components.kv_router.index import KeptBlocks, KvIndex, Target, Tier
from protoplane_components.kv_router.states import tier_of

PIECE_VERSION = 2
"""Layout of the pieces that this release writes and reads."""

_MAGIC = b"protoplane kv-index 1\n"
_PIECE_BLOCKS = 32_768
_WORDS = np.dtype("<u8")
_MAX_RECORD_BYTES = 64 << 20
_MAX_DEPTH = 1 << 30


class SnapshotHeader(BaseModel, frozen=True, extra="ignore"):
    """What a snapshot begins with.

    Attributes:
        block_size: Tokens in a block.
        position: Place in the event log from which on events are to be applied on top; empty for
            none.
        workers: Workers that did not come by discovery, as ProtoJSON.
    """

    block_size: int
    position: str = ""
    workers: Sequence[dict[str, Any]] = ()


def dump(
    index: KvIndex,
    courses: Mapping[Target, Course],
    block_size: int,
    workers: Collection[str] = (),
) -> Iterator[IndexPiece]:
    """The index in pieces: those of one target are as of one event.

    The index may change between two pieces; each piece says which event its target includes.

    Args:
        index: The index.
        courses: How far each target was followed; targets without a course are of no event.
        block_size: Tokens in a block.
        workers: Only those; all where empty.
    """
    targets = dict.fromkeys([*courses, *index.targets()])
    for target in targets:
        if workers and target.worker not in workers:
            continue
        course = courses.get(target, Course())
        epoch, event_id = course.epoch, course.event_id
        if not course.in_sync:
            # Events cannot go on from what is not whole.
            epoch, event_id = "", 0
        # As of one moment, whatever happens before the last piece is sent.
        held = [*_filled(index.kept(target))] or [(Tier.DEVICE, [])]
        for tier, runs in held:
            yield IndexPiece(
                version=PIECE_VERSION,
                worker_id=target.worker,
                dp_rank=target.dp_rank,
                epoch=epoch,
                event_id=event_id,
                block_size=block_size,
                tier=StorageTier(int(tier)),
                blocks=b"".join(map(_pairs, runs)),
                runs=[
                    IndexRun(
                        blocks=len(run.keys),
                        depth=run.depth,
                        parent=run.parent,
                        way=len(run.keys) - len(run.engine_hashes),
                    )
                    for run in runs
                ],
            )


class Restoring:
    """Puts pieces into an index; the first of a target replaces what there was of it.

    Args:
        index: The index.
        block_size: Tokens in a block.

    Attributes:
        blocks: How many blocks came.
        courses: The targets that came, each with how far it was followed.
    """

    def __init__(self, index: KvIndex, block_size: int) -> None:
        self._index = index
        self._block_size = block_size
        self.blocks = 0
        self.courses: dict[Target, Course] = {}

    def put(self, piece: IndexPiece) -> None:
        """Take a piece in.

        Raises:
            PlaneError: FAILED_PRECONDITION for another version or block size, INVALID_ARGUMENT for
                what is no piece.
        """
        if piece.version != PIECE_VERSION:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"a piece of an index has version {piece.version}, and this router reads "
                f"{PIECE_VERSION}; dump it with the same release",
            )
        if piece.block_size != self._block_size:
            raise PlaneError(
                Code.FAILED_PRECONDITION,
                f"the index is of blocks of {piece.block_size} tokens, and this router's have "
                f"{self._block_size}",
            )
        count = sum(run.blocks for run in piece.runs)
        if not piece.worker_id or len(piece.blocks) != 16 * count:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "a piece of an index names its worker_id, and has 16 bytes for each of the "
                f"{count} blocks of its runs, not {len(piece.blocks)}",
            )
        if any(run.way > run.blocks or run.depth > _MAX_DEPTH for run in piece.runs):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "a run of a piece of an index has a way that is longer than the run, or lies "
                f"deeper than {_MAX_DEPTH} blocks",
            )
        target = Target(piece.worker_id, piece.dp_rank)
        if target not in self.courses:
            self._index.clear(target)
            self.courses[target] = Course(piece.epoch, piece.event_id, piece.event_id > 0)
        names, keys = np.frombuffer(piece.blocks, _WORDS).reshape(-1, 2).T.astype(np.uint64)
        begin, tier = 0, tier_of(piece.tier)
        for run in piece.runs:
            end = begin + run.blocks
            self._index.restore(
                target,
                names[begin + run.way : end],
                keys[begin:end],
                depth=run.depth,
                parent=run.parent,
                tier=tier,
            )
            begin = end
            self.blocks += run.blocks - run.way


async def write(header: SnapshotHeader, pieces: Iterator[IndexPiece]) -> AsyncIterator[bytes]:
    """The bytes of a snapshot, as an object store takes them."""
    yield _MAGIC
    yield _record(header.model_dump_json().encode())
    for piece in pieces:
        yield _record(piece.to_bytes())
    yield _record(b"")


async def read(source: AsyncIterable[bytes]) -> AsyncIterator[SnapshotHeader | IndexPiece]:
    """Read a snapshot: its header, then its pieces.

    Raises:
        PlaneError: FAILED_PRECONDITION for what is no snapshot or one of another release, DATA_LOSS
            where it breaks off or is damaged.
    """
    records = _records(source)
    try:
        header = SnapshotHeader.model_validate_json(await anext(records))
    except (ValidationError, StopAsyncIteration):
        raise PlaneError(Code.DATA_LOSS, "the header of a snapshot is damaged") from None
    yield header
    async for record in records:
        try:
            yield IndexPiece.from_bytes(record)
        except DecodeError as error:
            raise PlaneError(Code.DATA_LOSS, f"a piece of a snapshot is damaged: {error}") from None


def _record(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _records(source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    buffer = bytearray()
    wanted: int | None = None
    begun = over = False
    async for piece in source:
        if over:
            # The store checks what it gave once all of it was taken.
            continue
        buffer += piece
        if not begun:
            if len(buffer) < len(_MAGIC):
                continue
            if not buffer.startswith(_MAGIC):
                raise PlaneError(
                    Code.FAILED_PRECONDITION,
                    "this is no snapshot of an index, or of another release",
                )
            del buffer[: len(_MAGIC)]
            begun = True
        while len(buffer) >= (4 if wanted is None else wanted):
            if wanted is None:
                wanted = int.from_bytes(buffer[:4], "big")
                del buffer[:4]
                if wanted > _MAX_RECORD_BYTES:
                    raise PlaneError(Code.DATA_LOSS, "a record of a snapshot is damaged")
                if wanted == 0:
                    over = True
                    break
            else:
                yield bytes(buffer[:wanted])
                del buffer[:wanted]
                wanted = None
    if not over:
        raise PlaneError(Code.DATA_LOSS, "a snapshot breaks off before its end")


def _filled(kept: Iterable[KeptBlocks]) -> Iterator[tuple[Tier, list[KeptBlocks]]]:
    """Runs of one tier at a time, as many as go into a piece; long ones in parts."""
    tier, runs, room = Tier.DEVICE, list[KeptBlocks](), _PIECE_BLOCKS
    for run in kept:
        if len(run.keys) < len(run.engine_hashes):
            # Pieces that contradict each other were restored; the rest is still worth keeping.
            continue
        begin = 0
        while begin < len(run.engine_hashes):
            if runs and (not room or run.tier is not tier):
                yield tier, runs
                runs, room = [], _PIECE_BLOCKS
            tier, end = run.tier, min(begin + room, len(run.engine_hashes))
            runs.append(run.part(begin, end))
            room -= end - begin
            begin = end
    if runs:
        yield tier, runs


def _pairs(run: KeptBlocks) -> bytes:
    pairs = np.zeros((len(run.keys), 2), _WORDS)
    pairs[:, 1] = run.keys
    pairs[len(run.keys) - len(run.engine_hashes) :, 0] = run.engine_hashes
    return pairs.tobytes()
