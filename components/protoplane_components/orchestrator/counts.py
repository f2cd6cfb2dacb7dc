"""What an orchestrator has counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from protoplane.orchestrator.v1 import Counts as CountsMessage


@dataclass(slots=True)
class Counts:
    """All of them only grow.

    Attributes:
        requests: Requests that came.
        retries: Times that one was given to another worker before anything of it was delivered.
        resumes: Times that a text was gone on with at another worker.
        broken: Streams that broke off after something was delivered.
        refused: Requests that were refused because the queue was full.
        left: Requests whose callers left the queue.
        routed: Texts that the KV router placed.
        unrouted: Texts that went to the least loaded, because the router did not say.
    """

    requests: int = 0
    retries: int = 0
    resumes: int = 0
    broken: int = 0
    refused: int = 0
    left: int = 0
    routed: int = 0
    unrouted: int = 0

    def message(self) -> CountsMessage:
        """As callers are told."""
        return CountsMessage(**asdict(self))
