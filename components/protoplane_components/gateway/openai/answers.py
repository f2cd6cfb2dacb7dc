"""Answers as OpenAI's API writes them; pure functions from the gateway's messages to bytes.

Source: https://platform.openai.com/docs/api-reference/chat/streaming.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from protoplane.gateway.v1 import EmbedResponse, InferResponse, InferStreamResponse
from protoplane.inference.v1 import FinishReason, Model, Usage

DONE = b"data: [DONE]\n\n"
"""The end of a stream that was not broken off."""

_FINISHES = {
    FinishReason.FINISH_REASON_STOP: "stop",
    FinishReason.FINISH_REASON_LENGTH: "length",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


class ChatShape:
    """How a chat's answers look.

    Attributes:
        prefix: What their ids begin with.
        whole: Kind of a whole answer.
        piece: Kind of a piece.
    """

    prefix = "chatcmpl-"
    whole = "chat.completion"
    piece = "chat.completion.chunk"

    def choice(self, text: str) -> dict[str, Any]:
        """What a whole answer says."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def first(self) -> dict[str, Any] | None:
        """What the first piece says, before there is text; ``None`` for no such piece."""
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}

    def text(self) -> tuple[bytes, bytes]:
        """What stands before and after the text of a piece."""
        return b'"delta":{"content":', b"}"

    def last(self) -> dict[str, Any]:
        """What the last piece says beside why it ended."""
        return {"delta": {}}


class CompletionShape(ChatShape):
    """How the answers of ``/v1/completions`` look."""

    prefix = "cmpl-"
    whole = "text_completion"
    piece = "text_completion"

    def choice(self, text: str) -> dict[str, Any]:
        """What a whole answer says."""
        return {"text": text}

    def first(self) -> dict[str, Any] | None:
        """What the first piece says, before there is text; ``None`` for no such piece."""
        return None

    def text(self) -> tuple[bytes, bytes]:
        """What stands before and after the text of a piece."""
        return b'"text":', b""

    def last(self) -> dict[str, Any]:
        """What the last piece says beside why it ended."""
        return {"text": ""}


def whole(shape: ChatShape, response: InferResponse, created: int) -> bytes:
    """An answer that comes at once."""
    return to_json(
        {
            "id": shape.prefix + response.request_id,
            "object": shape.whole,
            "created": created,
            "model": response.model,
            "choices": [
                {
                    "index": 0,
                    **shape.choice(response.text),
                    "logprobs": None,
                    "finish_reason": _FINISHES.get(response.finish_reason, "stop"),
                }
            ],
            "usage": _usage(response.usage),
        }
    )


class Pieces:
    """An answer that comes in pieces, as server-sent events.

    Args:
        shape: How they look.
        request_id: Of the request.
        model: That writes.
        created: When it began, in seconds since 1970.
        include_usage: Whether the last piece has the usage.
    """

    __slots__ = ("_after", "_before", "_head", "_shape", "_usage", "_with_usage")

    def __init__(
        self, shape: ChatShape, request_id: str, model: str, created: int, *, include_usage: bool
    ) -> None:
        self._shape = shape
        self._with_usage = include_usage
        head = to_json(
            {
                "id": shape.prefix + request_id,
                "object": shape.piece,
                "created": created,
                "model": model,
            }
        )
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._usage = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        before, after = shape.text()
        # All but the text is the same from piece to piece.
        self._before = self._head + b'{"index":0,' + before
        self._after = after + b',"logprobs":null,"finish_reason":null}]' + self._usage

    def first(self) -> bytes:
        """What goes before all text; may be nothing."""
        said = self._shape.first()
        return b"" if said is None else self._event(said, None)

    def piece(self, response: InferStreamResponse) -> bytes:
        """What a message is; may be nothing."""
        event = b""
        if response.text:
            event = self._before + to_json(response.text) + self._after
        if response.finish_reason:
            finish = _FINISHES.get(response.finish_reason, "stop")
            event += self._event(self._shape.last(), finish)
        if response.usage is not None and self._with_usage:
            event += self._head + b'],"usage":' + to_json(_usage(response.usage)) + b"}\n\n"
        return event

    def _event(self, said: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return self._head + to_json(choice) + b"]" + self._usage


def embeddings(response: EmbedResponse, *, base64: bool) -> bytes:
    """Vectors."""
    tokens = response.usage.prompt_tokens if response.usage is not None else 0
    return to_json(
        {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _base64(each.values) if base64 else each.values,
                }
                for index, each in enumerate(response.embeddings)
            ],
            "model": response.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def models(found: Sequence[Model], created: int) -> bytes:
    """All models."""
    return to_json({"object": "list", "data": [_model(model, created) for model in found]})


def model(found: Model, created: int) -> bytes:
    """One model."""
    return to_json(_model(found, created))


def _model(found: Model, created: int) -> dict[str, Any]:
    return {
        "id": found.name,
        "object": "model",
        "created": created,
        "owned_by": found.platform or "protoplane",
    }


def _usage(usage: Usage | None) -> dict[str, int]:
    usage = usage or Usage()
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _base64(values: Sequence[float]) -> str:
    floats = array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode()
