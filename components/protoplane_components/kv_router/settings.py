"""The environment variables of the router and its shards."""

from __future__ import annotations

from collections.abc import Mapping

from protoplane_base import Code, PlaneError

BLOCK_SIZE = "PROTOPLANE_ROUTER_BLOCK_SIZE"
"""The environment variable for the tokens in a block; 16 without it."""

POLICY = "PROTOPLANE_ROUTER_POLICY"
"""The environment variable that names the policy; ``kv`` without it."""

WORKERS = "PROTOPLANE_ROUTER_WORKERS"
"""The environment variable for the path where discovery finds workers; anywhere without it."""

WORKERS_WITHOUT_EVENTS = "PROTOPLANE_ROUTER_WORKERS_WITHOUT_EVENTS"
"""The environment variable for the path where discovery finds workers that tell no KV events."""

TOKENIZER = "PROTOPLANE_ROUTER_TOKENIZER"
"""The environment variable that names the tokenizer for prompts that are texts; none without it."""

SHARDS = "PROTOPLANE_ROUTER_SHARDS"
"""The environment variable for how many shards have the index; without it the router has it."""

MAX_SHARDS = 1024


def block_size(environment: Mapping[str, str]) -> int:
    """Tokens in a block.

    Raises:
        PlaneError: INVALID_ARGUMENT, the variable is no number from 1 on.
    """
    return _number(environment, BLOCK_SIZE, "16", "give the tokens in a block, 16 say")


def shard_count(environment: Mapping[str, str]) -> int:
    """How many shards have the index; 0 where the router has it.

    Raises:
        PlaneError: INVALID_ARGUMENT, the variable is no number of shards.
    """
    if not environment.get(SHARDS):
        return 0
    count = _number(environment, SHARDS, "", "give how many shards there are, 4 say")
    if count > MAX_SHARDS:
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{SHARDS} is {count}; there can be {MAX_SHARDS} shards at most"
        )
    return count


def _number(environment: Mapping[str, str], name: str, default: str, remedy: str) -> int:
    text = environment.get(name) or default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise PlaneError(Code.INVALID_ARGUMENT, f"{name} is {text!r}; {remedy}")
    return int(text)
