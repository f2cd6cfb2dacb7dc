"""Between the messages of the router and what its library takes and gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from protoplane.router.v1 import (
    Overlap,
    Prompt,
    QueryRequest,
    RoutingRequest,
    SelectAndReserveResponse,
    Selection,
    SelectResponse,
    Worker,
    WorkerLoad,
    WorkerScore,
)
from protoplane_base import Code, Duration, PlaneError, Timestamp
from protoplane_base.wire import twin
from protoplane_components.kv_router import index
from protoplane_components.kv_router import selection as choices
from protoplane_components.kv_router.hashing import Hashes
from protoplane_components.kv_router.load import Load, Reservation

if TYPE_CHECKING:
    from protoplane_components.kv_router.at_once import Asked

Tokenizer = Callable[[str], Sequence[int] | NDArray[np.uint32]]
"""Makes tokens of a text."""

# As read, so that each field counts as set.
_SELECTION = Selection.from_bytes(b"")
_SCORE = WorkerScore.from_bytes(b"")
_SELECTED = SelectResponse(selection=_SELECTION)

# Of the year 9999, the last that a timestamp can say.
_LAST_SECOND = 253_402_300_799


class GivenPrompt(Struct, frozen=True, kw_only=True, gc=False):
    """A prompt as it was given: its tokens, hashes or keys, see `selection.Request`.

    Attributes:
        tokens: Its tokens.
        hashes: Hashes of its full blocks.
        keys: Keys of its prefixes.
        count: How many tokens it has, where they are not given.
    """

    tokens: Sequence[int] | NDArray[np.uint32] | None = None
    hashes: Hashes | None = None
    keys: NDArray[np.uint64] | None = None
    count: int | None = None


def request_of(
    message: RoutingRequest | Asked, prompt: GivenPrompt, pinned: Collection[str]
) -> choices.Request:
    """What is to be routed.

    Args:
        message: As it came.
        prompt: Its prompt.
        pinned: Ids of the only workers to choose from; empty for all.
    """
    return choices.Request(
        tokens=prompt.tokens,
        hashes=prompt.hashes,
        keys=prompt.keys,
        prompt_tokens=prompt.count,
        lora=message.lora,
        cache_namespace=message.cache_namespace,
        priority=message.priority,
        session=message.session,
        pinned=frozenset(pinned),
        excluded=frozenset(message.excluded_workers),
        policy=message.policy,
        id=message.request_id,
    )


def query_of(message: QueryRequest, tokenizer: Tokenizer | None) -> choices.Request:
    """What is asked of the index.

    Raises:
        PlaneError: INVALID_ARGUMENT; it has no prompt that can be read here.
    """
    prompt = prompt_of(message.prompt, tokenizer)
    return choices.Request(
        tokens=prompt.tokens,
        hashes=prompt.hashes,
        prompt_tokens=prompt.count,
        lora=message.lora,
        cache_namespace=message.cache_namespace,
    )


def selection_of(selection: choices.Selection, *, scores: bool) -> Selection:
    """A choice as it is answered."""
    target = selection.target
    # What the router has made needs no check; each would take a tenth of the whole choice.
    return twin(
        _SELECTION,
        {
            "worker_id": target.worker,
            "dp_rank": target.dp_rank,
            "endpoint": selection.worker.endpoint,
            "overlap_blocks": selection.overlap.blocks,
            "prompt_blocks": selection.prompt_blocks,
            "policy": selection.policy,
            "degraded": selection.degraded,
            "scores": [_score(each) for each in selection.scores()] if scores else [],
        },
    )


def answer_of(selection: choices.Selection, *, scores: bool) -> SelectResponse:
    """A choice as the answer to `Select`."""
    return twin(_SELECTED, {"selection": selection_of(selection, scores=scores)})


def reserved_of(
    selection: choices.Selection, reservation: Reservation, began: float, *, scores: bool
) -> SelectAndReserveResponse:
    """A choice as the answer to `SelectAndReserve`.

    Args:
        selection: The choice.
        reservation: What was reserved for it.
        began: When the request came, by `time.monotonic`, as the end of the reservation is.
        scores: Whether to tell how each worker was judged.
    """
    now = time.monotonic()
    left_s = max(0.0, reservation.expires_at - now)
    nanos = min(time.time_ns() + int(left_s * 1e9), _LAST_SECOND * 1_000_000_000)
    return SelectAndReserveResponse(
        selection=selection_of(selection, scores=scores),
        reservation_id=reservation.id,
        expires_at=Timestamp(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000),
        queued=Duration.from_seconds(now - began),
    )


def worker_of(worker: Worker) -> choices.Worker:
    """A worker as the library knows it."""
    return choices.Worker(
        id=worker.id,
        block_size=worker.block_size,
        endpoint=worker.endpoint,
        dp_start=worker.dp_start,
        dp_size=max(1, worker.dp_size),
        no_events=worker.no_events,
    )


def overlap_of(target: index.Target, overlap: index.Overlap) -> Overlap:
    """What a worker has of a prompt."""
    return Overlap(
        worker_id=target.worker,
        dp_rank=target.dp_rank,
        device_blocks=overlap.device,
        host_blocks=overlap.host,
        disk_blocks=overlap.disk,
    )


def load_of(load: Load) -> WorkerLoad:
    """How busy a rank is."""
    return WorkerLoad(
        worker_id=load.target.worker,
        dp_rank=load.target.dp_rank,
        active_requests=load.active_requests,
        prefill_tokens=max(0, round(load.prefill_tokens)),
        decode_blocks=max(0, load.decode_blocks),
    )


def lease_s(lease: Duration | None) -> float | None:
    """A lease in seconds.

    Raises:
        PlaneError: INVALID_ARGUMENT; it is not longer than nothing.
    """
    if lease is None:
        return None
    if lease.total_seconds <= 0:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"a lease of {lease} is none; give a time greater than 0"
        )
    return lease.total_seconds


def prompt_of(prompt: Prompt | None, tokenizer: Tokenizer | None) -> GivenPrompt:
    """The prompt of a message.

    Args:
        prompt: As it came.
        tokenizer: For prompts that are texts.

    Raises:
        PlaneError: INVALID_ARGUMENT; it has none that can be read here.
    """
    if prompt is not None and prompt.tokens is not None:
        return GivenPrompt(tokens=prompt.tokens.ids)
    if prompt is not None and prompt.blocks is not None:
        return GivenPrompt(hashes=prompt.blocks.hashes, count=prompt.blocks.tokens)
    if prompt is not None and prompt.text is not None:
        if tokenizer is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "this router has no tokenizer: give the prompt as tokens or as block hashes",
            )
        return GivenPrompt(tokens=tokenizer(prompt.text))
    raise PlaneError(
        Code.INVALID_ARGUMENT, "the request has no prompt: give its tokens or block hashes"
    )


def _score(score: choices.Score) -> WorkerScore:
    target, overlap = score.target, score.overlap
    return twin(
        _SCORE,
        {
            "worker_id": target.worker,
            "dp_rank": target.dp_rank,
            "device_blocks": overlap.device,
            "host_blocks": overlap.host,
            "disk_blocks": overlap.disk,
            "prefill_tokens": score.prefill_tokens,
            "prefill_cost": score.prefill,
            "decode_cost": score.decode,
            "active_cost": score.active,
            "bias": score.bias,
            "cost": score.cost,
            "probability": score.probability,
            "barred": score.barred,
        },
    )
