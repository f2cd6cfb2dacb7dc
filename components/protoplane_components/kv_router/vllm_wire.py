"""What vLLM and SGLang say about their KV caches, read from msgpack.

Source: ``vllm/distributed/kv_events.py`` of vLLM. A message is three frames: the topic, a number
that counts up by one (8 bytes, big-endian), and a batch of events. Batches and events are msgpack
maps in newer versions and arrays in older ones and in SGLang; both are read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec

from protoplane_base import Code, PlaneError

EngineHash = int | bytes
"""A block as its engine names it."""

_BATCH = ("ts", "events", "data_parallel_rank")
_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
)
_REMOVED = ("block_hashes", "medium", "group_idx")


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Blocks that an engine holds from now on, each after the one before.

    Attributes:
        hashes: What the engine calls them.
        parent: The block before the first; ``None`` at the start of a sequence.
        tokens: Their tokens, ``block_size`` for each.
        block_size: Tokens of a block.
        medium: Where they are, ``GPU`` for example; empty where that is not said.
        lora_name: Adapter that they were computed with; empty for none.
        marked: For each block whether more than its tokens and the adapter tells it from others:
            images, a salt, embeddings.
        group: Number of the KV cache group; 0 where there is one only.
        group_kind: What attends to it, ``full_attention`` for example; empty where not said.
    """

    hashes: Sequence[EngineHash]
    parent: EngineHash | None
    tokens: Sequence[int]
    block_size: int
    medium: str
    lora_name: str
    marked: Sequence[bool]
    group: int
    group_kind: str


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """Blocks that an engine holds no more; attributes as in `BlocksStored`."""

    hashes: Sequence[EngineHash]
    medium: str
    group: int


@dataclass(frozen=True, slots=True)
class AllCleared:
    """An engine holds nothing any more."""


VllmEvent = BlocksStored | BlocksRemoved | AllCleared
"""What an engine tells."""


@dataclass(frozen=True, slots=True)
class VllmBatch:
    """What happened in one step of an engine.

    Attributes:
        time_s: When, in seconds since 1970 by the clock of the engine.
        rank: Its data-parallel rank; ``None`` where that is not said.
        events: What happened, in order. Kinds that are not known here are left out.
    """

    time_s: float
    rank: int | None
    events: Sequence[VllmEvent]


def read_batch(payload: bytes) -> VllmBatch:
    """Read the third frame of a message.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is no batch of KV events.
    """
    try:
        fields = _fields(msgspec.msgpack.decode(payload), _BATCH)
        events = fields["events"]
        rank = fields.get("data_parallel_rank")
        if not _is_list(events):
            raise TypeError("events is no list")
        return VllmBatch(
            _number(fields["ts"]),
            None if rank is None else _integer(rank),
            [event for each in events if (event := _event(each)) is not None],
        )
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"this is no batch of KV events as vLLM sends them: {type(error).__name__}: {error}",
        ) from error


def _event(value: object) -> VllmEvent | None:
    tag: object = None
    rest: object = value
    if _is_list(value):
        tag, rest = (value[0], value[1:]) if value else (None, [])
    elif _is_map(value):
        tag = value.get("type")
    else:
        raise TypeError(f"an event is a map or a list, not {type(value).__name__}")
    match tag:
        case "BlockStored":
            return _stored(_fields(rest, _STORED))
        case "BlockRemoved":
            fields = _fields(rest, _REMOVED)
            return BlocksRemoved(
                _hashes(fields["block_hashes"]), _text(fields.get("medium")), _group(fields)
            )
        case "AllBlocksCleared":
            return AllCleared()
        case str():
            return None
        case _:
            raise TypeError("an event has no type")


def _stored(fields: Mapping[str, Any]) -> BlocksStored:
    hashes = _hashes(fields["block_hashes"])
    parent = fields.get("parent_block_hash")
    tokens = fields["token_ids"]
    block_size = _integer(fields["block_size"])
    lora_name = _text(fields.get("lora_name"))
    if not lora_name and fields.get("lora_id") is not None:
        # Older engines give a number only; the adapter is known by it then.
        lora_name = str(_integer(fields["lora_id"]))
    if not _is_list(tokens) or not all(
        isinstance(token, int) and 0 <= token < 1 << 32 for token in tokens
    ):
        raise TypeError("token_ids is no list of numbers from 0 to 2**32 - 1")
    if block_size < 1 or len(tokens) != block_size * len(hashes):
        raise ValueError(
            f"{len(tokens)} tokens are not {len(hashes)} blocks of {block_size} tokens each"
        )
    extra = fields.get("extra_keys")
    marked = [False] * len(hashes)
    if _is_list(extra):
        if len(extra) != len(hashes):
            raise ValueError(f"extra_keys has {len(extra)} entries for {len(hashes)} blocks")
        marked = [_is_list(keys) and any(key != lora_name for key in keys) for keys in extra]
    return BlocksStored(
        hashes,
        None if parent is None else _hash(parent),
        tokens,
        block_size,
        _text(fields.get("medium")),
        lora_name,
        marked,
        _group(fields),
        _text(fields.get("kv_cache_spec_kind")),
    )


def _fields(value: object, names: Sequence[str]) -> Mapping[str, Any]:
    """Fields by name, whether they came as a map or as a list in order."""
    if _is_map(value):
        return value
    if _is_list(value):
        return dict(zip(names, value, strict=False))
    raise TypeError(f"expected a map or a list, not {type(value).__name__}")


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_map(value: object) -> TypeGuard[dict[Any, Any]]:
    return isinstance(value, dict)


def _hashes(value: object) -> list[EngineHash]:
    if not _is_list(value):
        raise TypeError("block_hashes is no list")
    return [_hash(each) for each in value]


def _hash(value: object) -> EngineHash:
    if isinstance(value, bytes) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise TypeError(f"a block's hash is a number or bytes, not {type(value).__name__}")


def _group(fields: Mapping[str, Any]) -> int:
    group = fields.get("group_idx")
    return 0 if group is None else _integer(group)


def _integer(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"expected a whole number, not {type(value).__name__}")


def _number(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    raise TypeError(f"expected a number, not {type(value).__name__}")


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise TypeError(f"expected text, not {type(value).__name__}")
