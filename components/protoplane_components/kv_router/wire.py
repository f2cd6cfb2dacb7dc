"""Stored blocks from the bytes of a `KvEvent`, as arrays: without an object for each number.

On the wire a packed ``repeated fixed64`` is the same as ``bytes``. So a schema that is the same
but for that lets protobuf's parser give each list in one piece, which numpy reads where it lies.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

_WORDS = np.dtype("<u8")
_FIELD = descriptor_pb2.FieldDescriptorProto


class StoredBlocks(NamedTuple):
    """A `KvEvent` that says that blocks were stored.

    Attributes:
        worker: Id of the worker.
        dp_rank: Its data-parallel rank.
        event_id: Number of the event.
        epoch: Epoch of the worker's events.
        block_size: Tokens in a block; 0 says nothing.
        tier: Where they are, as a number of `StorageTier`.
        parent: What the engine calls the block before the first; ``None`` for the beginning of a
            sequence.
        engine_hashes: What the engine calls each block.
        hashes: Hashes of each block's tokens alone.
    """

    worker: str
    dp_rank: int
    event_id: int
    epoch: str
    block_size: int
    tier: int
    parent: int | None
    engine_hashes: NDArray[np.uint64]
    hashes: NDArray[np.uint64]


def read_stored(data: bytes) -> StoredBlocks | None:
    """Read an event.

    Args:
        data: A `KvEvent` in the protobuf wire format.

    Returns:
        The blocks; ``None`` where it says something else, or was encoded in a way that is allowed,
        but that only `KvEvent.from_bytes` reads, or is no `KvEvent` at all.
    """
    event = _twin()()
    try:
        event.ParseFromString(data)
    except DecodeError:
        return None
    if not event.HasField("stored"):
        return None
    stored = event.stored
    engine_hashes, hashes = stored.block_hashes, stored.tokens_hashes
    # A list in several pieces would have lost all but the last one.
    if not engine_hashes or len(engine_hashes) % 8 or event.ByteSize() != len(data):
        return None
    return StoredBlocks(
        event.worker,
        event.dp_rank,
        event.event_id,
        event.epoch,
        event.block_size,
        event.tier,
        stored.parent_hash if stored.HasField("parent_hash") else None,
        np.frombuffer(engine_hashes, _WORDS),
        np.frombuffer(hashes if len(hashes) % 8 == 0 else b"", _WORDS),
    )


@cache
def _twin() -> Any:
    """The class of the schema that is almost `KvEvent`'s."""
    file = descriptor_pb2.FileDescriptorProto(
        name="protoplane/router/kv_event_twin.proto",
        package="protoplane.router.twin",
        syntax="proto3",
    )
    stored = file.message_type.add(name="BlocksStored")
    for at, name in enumerate(("parent_hash", "start_position")):
        stored.oneof_decl.add(name=f"_{name}")
        stored.field.add(
            name=name,
            number=at + 1,
            type=_FIELD.TYPE_UINT32 if at else _FIELD.TYPE_FIXED64,
            label=_FIELD.LABEL_OPTIONAL,
            proto3_optional=True,
            oneof_index=at,
        )
    event = file.message_type.add(name="KvEvent")
    event.oneof_decl.add(name="change")
    for message, name, number, kind in (
        (stored, "block_hashes", 3, _FIELD.TYPE_BYTES),
        (stored, "tokens_hashes", 4, _FIELD.TYPE_BYTES),
        (event, "worker", 1, _FIELD.TYPE_STRING),
        (event, "dp_rank", 2, _FIELD.TYPE_UINT32),
        (event, "event_id", 3, _FIELD.TYPE_UINT64),
        (event, "epoch", 4, _FIELD.TYPE_STRING),
        (event, "block_size", 5, _FIELD.TYPE_UINT32),
        (event, "tier", 6, _FIELD.TYPE_INT32),
    ):
        message.field.add(name=name, number=number, type=kind, label=_FIELD.LABEL_OPTIONAL)
    event.field.add(
        name="stored",
        number=7,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".protoplane.router.twin.BlocksStored",
        label=_FIELD.LABEL_OPTIONAL,
        oneof_index=0,
    )
    for number, name in ((8, "removed"), (9, "cleared")):
        event.field.add(
            name=name,
            number=number,
            type=_FIELD.TYPE_BYTES,
            label=_FIELD.LABEL_OPTIONAL,
            oneof_index=0,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("protoplane.router.twin.KvEvent")
    )
