"""Between the messages of the router and what its library takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from protoplane.router.v1 import (
    Overlap,
    Prompt,
    QueryRequest,
    RoutingRequest,
    Selection,
    SelectResponse,
    Worker,
    WorkerLoad,
    WorkerScore,
)
from protoplane_base import Code, Duration, PlaneError
from protoplane_base.wire import twin
from protoplane_components.kv_router import index
from protoplane_components.kv_router import selection as choices
from protoplane_components.kv_router.load import Load

Tokenizer = Callable[[str], Sequence[int] | NDArray[np.uint32]]
"""Makes tokens of a text."""

# As read, so that each field counts as set.
_SELECTION = Selection.from_bytes(b"")
_SCORE = WorkerScore.from_bytes(b"")
_SELECTED = SelectResponse(selection=_SELECTION)


def request_of(
    message: RoutingRequest | None, tokenizer: Tokenizer | None, pinned: Collection[str]
) -> choices.Request:
    """What is to be routed.

    Args:
        message: As it came.
        tokenizer: For prompts that are texts.
        pinned: Ids of the only workers to choose from; empty for all.

    Raises:
        PlaneError: INVALID_ARGUMENT; it has no prompt that can be read here.
    """
    if message is None:
        raise PlaneError(Code.INVALID_ARGUMENT, "request is missing: say what is to be routed")
    tokens, hashes, prompt_tokens = _prompt(message.prompt, tokenizer)
    return choices.Request(
        tokens=tokens,
        hashes=hashes,
        prompt_tokens=prompt_tokens,
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
    tokens, hashes, prompt_tokens = _prompt(message.prompt, tokenizer)
    return choices.Request(
        tokens=tokens,
        hashes=hashes,
        prompt_tokens=prompt_tokens,
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


def _prompt(
    prompt: Prompt | None, tokenizer: Tokenizer | None
) -> tuple[Sequence[int] | NDArray[np.uint32] | None, Sequence[int] | None, int | None]:
    """Tokens, or hashes and the number of tokens."""
    if prompt is not None and prompt.tokens is not None:
        return prompt.tokens.ids, None, None
    if prompt is not None and prompt.blocks is not None:
        return None, prompt.blocks.hashes, prompt.blocks.tokens
    if prompt is not None and prompt.text is not None:
        if tokenizer is None:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                "this router has no tokenizer: give the prompt as tokens or as block hashes",
            )
        return tokenizer(prompt.text), None, None
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
