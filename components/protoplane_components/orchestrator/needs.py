"""What a request needs of a worker, and what it has met with so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from protoplane.inference.v1 import Capability, GenerateRequest, SequenceStep
from protoplane_base import PlaneError
from protoplane_components.orchestrator.workers import Worker


@dataclass(slots=True, eq=False)
class Need:
    """One request that wants a worker, across all that it tries.

    Attributes:
        model: The model that it is for; where it is empty, the first that can is filled in.
        capability: What it asks of it.
        priority: Requests with a higher one go first.
        text: The request, where it is for a text: what a policy may look at.
        sequence: The sequence that it is part of; ``None`` for none.
        only: Name of the only worker that will do; empty for any.
        arrival: Its place among those of the same priority; 0 until it has one.
        attempts: How many workers it was given to.
        tried: Workers that it was lost with; others go first.
        barred: Workers that refused it; it is not for them.
        failure: What it failed with last.
    """

    model: str
    capability: Capability
    priority: int = 0
    text: GenerateRequest | None = None
    sequence: SequenceStep | None = None
    only: str = ""
    arrival: int = 0
    attempts: int = 0
    tried: set[Worker] = field(default_factory=set[Worker])
    barred: set[Worker] = field(default_factory=set[Worker])
    failure: PlaneError | None = None

    def suits(self, worker: Worker) -> bool:
        """Whether it may be given to a worker at all, with room or without."""
        return (
            worker.can(self.model, self.capability)
            and worker.available
            and worker not in self.barred
            and (worker.name == self.only if self.only else not worker.drained)
        )

    @property
    def task(self) -> str:
        """What it asks of the model, in a word."""
        return self.capability.name.removeprefix("CAPABILITY_").lower()
