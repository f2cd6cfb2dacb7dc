"""Traces for tests: conversations that come back with their history."""

from __future__ import annotations

import json
from random import Random

from protoplane_components.mocker.trace import TraceRequest


def conversations(
    *, users: int, turns: int, blocks: int = 4, every_ms: float = 500, seed: int = 1
) -> list[TraceRequest]:
    """Each user comes back with all that was said before and some more.

    All share the first block, as a system prompt is shared.
    """
    random = Random(seed)
    fresh = iter(range(1, 1_000_000))
    histories = [[0] for _ in range(users)]
    trace: list[TraceRequest] = []
    for number in range(users * turns):
        history = histories[number % users] if number < users else random.choice(histories)
        history.extend(next(fresh) for _ in range(random.randint(1, blocks)))
        trace.append(
            TraceRequest(
                timestamp=number * every_ms,
                input_length=len(history) * 512 - random.randint(0, 200),
                output_length=random.randint(1, 60),
                hash_ids=tuple(history),
            )
        )
    return trace


def written_out(trace: list[TraceRequest]) -> str:
    """The lines of a trace."""
    return "".join(f"{json.dumps(request.model_dump())}\n" for request in trace)
