"""Prompts and sampling as the API has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from protoplane_base import Code, PlaneError
from protoplane_runtime.tracing import TRACEPARENT
from protoplane_server.backends.interface import (
    BackendContext,
    FinishReason,
    Prompt,
    Sampling,
    Tokens,
)
from protoplane_server.backends.sampling import Rules

_FINISHES = {
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}

# What the API has no field for, and most of its servers have.
_BESIDE = {
    "top_k": "top_k",
    "repetition_penalty": "repetition_penalty",
    "stop_tokens": "stop_token_ids",
}
_ANY = 1 << 31
"""More tokens than any model knows, or writes in one answer."""

_OWN = ("temperature", "top_p", "seed", "max_tokens", "presence_penalty", "frequency_penalty")


def finish_of(reason: str) -> FinishReason:
    """Why a text ended; what is not known here came to an end of its own."""
    return _FINISHES.get(reason, FinishReason.STOP)


def prompt_of(prompt: Prompt, *, chat: bool) -> dict[str, Any]:
    """A prompt: ``messages`` for chat completions, else ``prompt`` for plain ones.

    Raises:
        PlaneError: INVALID_ARGUMENT for tokens where texts go as messages.
    """
    if isinstance(prompt, Tokens):
        if chat:
            raise PlaneError(
                Code.INVALID_ARGUMENT, "this backend has chat completions only; send a text"
            )
        return {"prompt": list(prompt.ids)}
    if isinstance(prompt, str):
        return {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    return {"messages": [{"role": each.role, "content": each.content} for each in prompt]}


def sampling_of(sampling: Sampling) -> dict[str, Any]:
    """Fields of a request.

    Raises:
        PlaneError: INVALID_ARGUMENT with the field, its value and what it may be: servers pass over
            some that cannot be. What only this server cannot do it says itself.
    """
    Rules.of(sampling, vocabulary=_ANY, longest=_ANY)
    fields: dict[str, Any] = {
        name: value for name in _OWN if (value := getattr(sampling, name)) is not None
    }
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    beside = {
        theirs: value
        for name, theirs in _BESIDE.items()
        if (value := getattr(sampling, name)) not in (None, ())
    }
    if beside:
        fields["extra_body"] = beside
    return fields


def headers_of(ctx: BackendContext) -> Mapping[str, str]:
    """What the server is told of a request beside it: its place in a trace, and its name.

    The name goes as the ``x-client-request-id`` of OpenAI's API, and as the ``x-request-id`` that
    vLLM and others log where it is a UUID: llama-cpp-python refuses requests with any other.
    """
    headers = {
        TRACEPARENT: ctx.traceparent,
        "x-client-request-id": ctx.request_id,
        "x-request-id": ctx.request_id if _is_uuid(ctx.request_id) else "",
    }
    return {name: value for name, value in headers.items() if value and value.isascii()}


def _is_uuid(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True
