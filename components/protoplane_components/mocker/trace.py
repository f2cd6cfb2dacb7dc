"""Traces in the Mooncake format: what was asked when, with the prompts as hashes of their blocks.

Source: Mooncake (FAST'25), https://github.com/kvcache-ai/Mooncake, ``FAST25-release/traces``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoplane_base import Code, PlaneError

BLOCK_TOKENS = 512
"""Tokens of a block in the published traces."""


class TraceRequest(BaseModel):
    """One line of a trace.

    Attributes:
        timestamp: When it came, in milliseconds since the beginning.
        input_length: Tokens of its prompt.
        output_length: Tokens that were written.
        hash_ids: An id for each block of the prompt, the last one not always full. Equal ids mean
            that the prompts are equal up to the end of that block.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    input_length: Annotated[int, Field(ge=1)]
    output_length: Annotated[int, Field(ge=1)]
    hash_ids: tuple[int, ...]


def read_trace(path: Path, block_tokens: int = BLOCK_TOKENS) -> list[TraceRequest]:
    """Read a trace.

    Args:
        path: A file of JSON lines; empty lines are passed over.
        block_tokens: Tokens of a block in it.

    Returns:
        Its requests in the order of time.

    Raises:
        PlaneError: INVALID_ARGUMENT for a line that is none of a trace, by its number.
        OSError: The file cannot be read.
    """
    with path.open("rb") as lines:
        return parse_trace(lines, block_tokens, str(path))


def parse_trace(
    lines: Iterable[bytes | str], block_tokens: int = BLOCK_TOKENS, name: str = "trace"
) -> list[TraceRequest]:
    """Parse the lines of a trace; see `read_trace`.

    Args:
        lines: Lines of JSON.
        block_tokens: Tokens of a block in it.
        name: What errors call it.
    """
    requests: list[TraceRequest] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = TraceRequest.model_validate_json(line)
        except ValidationError as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{name}, line {number}: {_first(error)}"
            ) from None
        blocks = -(-request.input_length // block_tokens)
        if len(request.hash_ids) != blocks:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{name}, line {number}: {request.input_length} tokens are {blocks} blocks of "
                f"{block_tokens}, and hash_ids has {len(request.hash_ids)}; is the size of its "
                "blocks another?",
            )
        requests.append(request)
    if not requests:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{name} has no requests")
    requests.sort(key=lambda request: request.timestamp)
    return requests


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a line."""
    found = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    return f"{where}: {found['msg']}" if where else found["msg"]


def unbounded_hit_ratio(requests: Sequence[TraceRequest]) -> float:
    """The share of blocks that one cache without bounds would have: more cannot be reached."""
    seen: set[int] = set()
    hits = blocks = 0
    for request in requests:
        blocks += len(request.hash_ids)
        for block in request.hash_ids:
            if block not in seen:
                break
            hits += 1
        seen.update(request.hash_ids)
    return hits / blocks if blocks else 0.0
