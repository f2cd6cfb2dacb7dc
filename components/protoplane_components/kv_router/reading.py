"""Reads requests with long prompts from JSON: the tokens apart from what stands around them.

Around the tokens is little, which is read and checked as any request is. The tokens themselves
become block hashes at once, so nobody makes a model of thousands of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from protoplane.router.v1 import BlockSequence, Prompt, QueryRequest, RoutingRequest
from protoplane_base import Message
from protoplane_base.wire import twin
from protoplane_components.kv_router.hashing import HashList, read_prompt

_M = TypeVar("_M", bound=Message)

MARK = 0xFFFFFFFF
"""What stands where the tokens were. Where it is not found there again, that was another list."""

_MIN_BYTES = 512
_KEY = re.compile(rb'"ids"\s*:\s*\[')
_MARK_TEXT = b"%d" % MARK

_BLOCKS = BlockSequence(hashes=[0], tokens=0)
_PROMPT = Prompt(blocks=_BLOCKS)


def part(data: bytes) -> tuple[bytes, memoryview] | None:
    """Part a request from its first list of tokens.

    Returns:
        The request with `MARK` in place of the tokens, and these without the brackets; ``None``
        where there is no such list.
    """
    key = _KEY.search(data)
    if key is None:
        return None
    begin = key.end()
    end = data.find(b"]", begin)
    if end < 0:
        return None
    return data[:begin] + _MARK_TEXT + data[end:], memoryview(data)[begin:end]


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
        parts = part(data) if len(data) >= _MIN_BYTES else None
        if parts is None:
            return None
        around, text = parts
        try:
            # What `model_validate_json` calls; with what that does around it, it is a fifth slower.
            request: _M = message.__pydantic_validator__.validate_json(around)
        except ValidationError:
            return None
        routed = asked(request)
        if routed is None or routed.prompt is None or routed.prompt.tokens is None:
            return None
        if routed.prompt.tokens.ids != [MARK]:
            return None
        found = read_prompt(
            text, block_size, lora=routed.lora, cache_namespace=routed.cache_namespace
        )
        if found is None:
            return None
        words, keys, tokens = found
        hashes = HashList(np.frombuffer(words, np.uint64), np.frombuffer(keys, np.uint64))
        blocks = twin(_BLOCKS, {"hashes": hashes, "tokens": tokens})
        # An assignment would check each hash.
        prompt = twin(_PROMPT, {"tokens": None, "blocks": blocks, "text": None})
        vars(routed)["prompt"] = prompt
        return request

    return read
