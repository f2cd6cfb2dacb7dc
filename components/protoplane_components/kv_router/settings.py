"""The environment variables of the router and its shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.admission import Admission
from protoplane_components.kv_router.cost import CostWeights

T = TypeVar("T", Admission, CostWeights)

BLOCK_SIZE = "PROTOPLANE_ROUTER_BLOCK_SIZE"
"""The environment variable for the tokens in a block; 16 without it."""

POLICY = "PROTOPLANE_ROUTER_POLICY"
"""The environment variable that names the policy; ``kv`` without it."""

WEIGHTS = "PROTOPLANE_ROUTER_WEIGHTS"
"""The environment variable for weights of the cost: ``name=value`` with commas between them."""

ADMISSION = "PROTOPLANE_ROUTER_ADMISSION"
"""The environment variable for when a worker is too busy, written as the weights are."""

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


def weights(environment: Mapping[str, str]) -> CostWeights:
    """The weights of the cost.

    Raises:
        PlaneError: INVALID_ARGUMENT, there is no such weight, or its value does not do.
    """
    return _named(environment, WEIGHTS, CostWeights, "fresh=2,temperature=0.1")


def admission(environment: Mapping[str, str]) -> Admission:
    """When a worker is too busy, and who waits how.

    Raises:
        PlaneError: INVALID_ARGUMENT, there is no such limit, or its value does not do.
    """
    example = "max_active_requests=64,order=shortest"
    made = _named(environment, ADMISSION, Admission, example)
    for name, value in asdict(made).items():
        if isinstance(value, int | float) and not value > 0:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{ADMISSION}: {name} is {value}; give a number above 0, as in {example}",
            )
    return made


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


def _named(environment: Mapping[str, str], variable: str, kind: type[T], example: str) -> T:
    """A value of some class from ``name=value`` with commas between them."""
    pairs = [part.partition("=") for part in environment.get(variable, "").split(",")]
    values = {name.strip(): value.strip() for name, _, value in pairs if name.strip()}
    known = [field.name for field in fields(kind)]
    fault = ""
    if unknown := [name for name in values if name not in known]:
        fault = f"there is no {unknown[0]}"
    else:
        try:
            return TypeAdapter(kind).validate_python(values)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            fault = f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    raise PlaneError(
        Code.INVALID_ARGUMENT,
        f"{variable}: {fault}; there are {', '.join(known)}, as in {example}",
    )
