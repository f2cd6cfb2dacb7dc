"""`Select` and `SelectAndReserve` as JSON mostly has them, read and answered without a wait.

What is usual is read here: tokens as a prompt, and all else as ProtoJSON is mostly written.
Anything else is left to the ordinary way, which reads all of ProtoJSON, and says what is wrong with
what is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct

from protoplane_base import Duration
from protoplane_components.kv_router import selection as choices
from protoplane_components.kv_router.conversion import GivenPrompt, answer_of
from protoplane_components.kv_router.hashing import read_prompt
from protoplane_components.kv_router.reading import MARK, part

_T = TypeVar("_T")
_Int32 = Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]
_UInt32 = Annotated[int, Meta(ge=0, lt=1 << 32)]


class _Tokens(Struct, forbid_unknown_fields=True, gc=False):
    ids: list[_UInt32]


class _Prompt(Struct, forbid_unknown_fields=True, gc=False):
    tokens: _Tokens


class Asked(Struct, forbid_unknown_fields=True, rename="camel", kw_only=True, gc=False):
    """A `RoutingRequest` whose prompt is given as tokens; its fields mean what the schema says."""

    prompt: _Prompt
    model: str = ""
    lora: str = ""
    cache_namespace: str = ""
    priority: _Int32 = 0
    session: str = ""
    pinned_workers: list[str] = []
    excluded_workers: list[str] = []
    expected_output_tokens: _UInt32 | None = None
    policy: str = ""
    request_id: str = ""
    omit_scores: bool = False


class _Select(Struct, forbid_unknown_fields=True, gc=False):
    request: Asked


class _SelectAndReserve(Struct, forbid_unknown_fields=True, gc=False):
    request: Asked
    lease: str | None = None


class _Selection(Struct, rename="camel", omit_defaults=True, gc=False):
    worker_id: str = ""
    dp_rank: int = 0
    endpoint: str = ""
    overlap_blocks: int = 0
    prompt_blocks: int = 0
    policy: str = ""
    degraded: bool = False


class _Selected(Struct, gc=False):
    selection: _Selection


_select = msgspec.json.Decoder(_Select).decode
_select_and_reserve = msgspec.json.Decoder(_SelectAndReserve).decode
_encode = msgspec.json.Encoder().encode


def read_select(data: bytes, block_size: int) -> tuple[Asked, GivenPrompt] | None:
    """Read a `SelectRequest` from ProtoJSON.

    Args:
        data: The request.
        block_size: Tokens in a block.

    Returns:
        All but the prompt, and the prompt; ``None`` for one that is left to the ordinary way.
    """
    read = _read(data, _select)
    if read is None:
        return None
    request, text = read
    prompt = _prompt(request.request, text, block_size)
    return None if prompt is None else (request.request, prompt)


def read_select_and_reserve(
    data: bytes, block_size: int
) -> tuple[Asked, GivenPrompt, Duration | None] | None:
    """Read a `SelectAndReserveRequest`; as `read_select`, and the lease comes last."""
    read = _read(data, _select_and_reserve)
    if read is None:
        return None
    request, text = read
    prompt = _prompt(request.request, text, block_size)
    if prompt is None:
        return None
    try:
        lease = None if request.lease is None else Duration.from_json(request.lease)
    except ValueError:
        return None
    return request.request, prompt, lease


def select_json(selection: choices.Selection, *, scores: bool) -> bytes:
    """A choice as the answer to `Select`, in ProtoJSON."""
    if scores:
        return answer_of(selection, scores=True).model_dump_json().encode()
    target = selection.target
    return _encode(
        _Selected(
            _Selection(
                target.worker,
                target.dp_rank,
                selection.worker.endpoint,
                selection.overlap.blocks,
                selection.prompt_blocks,
                selection.policy,
                selection.degraded,
            )
        )
    )


def _read(data: bytes, decode: Callable[[bytes], _T]) -> tuple[_T, memoryview] | None:
    """A request without its tokens, and these."""
    parts = part(data)
    if parts is None:
        return None
    around, text = parts
    try:
        return decode(around), text
    except msgspec.DecodeError:
        return None


def _prompt(asked: Asked, text: memoryview, block_size: int) -> GivenPrompt | None:
    if asked.prompt.tokens.ids != [MARK]:
        return None
    found = read_prompt(text, block_size, lora=asked.lora, cache_namespace=asked.cache_namespace)
    if found is None:
        return None
    _, keys, tokens = found
    return GivenPrompt(keys=np.frombuffer(keys, np.uint64), count=tokens)
