"""Reads requests with long prompts from JSON: the tokens apart from what stands around them.

Around the tokens is little, which is read and checked as any request is. The tokens themselves
become block hashes at once, so nobody makes a model of thousands of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from protoplane.router.v1 import BlockSequence, Prompt, QueryRequest, RoutingRequest
from protoplane_base import Message
from protoplane_base.wire import twin
from protoplane_components.kv_router.hashing import read_prompt

_M = TypeVar("_M", bound=Message)

_MIN_BYTES = 512
_KEY = re.compile(rb'"ids"\s*:\s*\[')
# It stands where the tokens were. Where it is not found there again, that was some other list.
_MARK = 0xFFFFFFFF
_MARK_TEXT = b"%d" % _MARK

_BLOCKS = BlockSequence(hashes=[0], tokens=0)
_PROMPT = Prompt(blocks=_BLOCKS)


def prompt_reader(
    message: type[_M], asked: Callable[[_M], RoutingRequest | QueryRequest | None], block_size: int
) -> Callable[[bytes], _M | None]:
    """A reader of one kind of request.

    Args:
        message: Its class.
        asked: Gives the part that has the prompt.
        block_size: Tokens in a block.

    Returns:
        From ProtoJSON to the request, whose prompt is block hashes then; ``None`` for one without
        a long list of tokens, and for one with a fault.
    """

    def read(data: bytes) -> _M | None:
        if len(data) < _MIN_BYTES:
            return None
        key = _KEY.search(data)
        if key is None:
            return None
        begin = key.end()
        end = data.find(b"]", begin)
        if end < 0:
            return None
        try:
            # What `model_validate_json` calls; with what that does around it, it is a fifth slower.
            request: _M = message.__pydantic_validator__.validate_json(
                data[:begin] + _MARK_TEXT + data[end:]
            )
        except ValidationError:
            return None
        part = asked(request)
        if part is None or part.prompt is None or part.prompt.tokens is None:
            return None
        if part.prompt.tokens.ids != [_MARK]:
            return None
        found = read_prompt(
            memoryview(data)[begin:end],
            block_size,
            lora=part.lora,
            cache_namespace=part.cache_namespace,
        )
        if found is None:
            return None
        hashes, tokens = found
        blocks = twin(_BLOCKS, {"hashes": hashes, "tokens": tokens})
        # An assignment would check each hash.
        prompt = twin(_PROMPT, {"tokens": None, "blocks": blocks, "text": None})
        vars(part)["prompt"] = prompt
        return request

    return read
