"""What a stack is to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from protoplane_base import Code, PlaneError

POLICIES = ("kv", "least-loaded", "power-of-two", "round-robin")
"""How the orchestrator may choose a worker."""

_MAX_WORKERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What a stack is to be.

    Attributes:
        folder: Folder of the engine ``local:``, absolute; the stack's own files are in its
            subfolder ``stack``.
        workers: How many inference workers.
        http: Where the gateway listens for HTTP, ``host:port``.
        grpc: Where it listens for gRPC; ``None`` for not at all.
        policy: How the orchestrator chooses a worker, one of `POLICIES`.
        backend: URL of what does the workers' work; ``None`` for that of ``$PROTOPLANE_BACKEND``.
        grace_s: Seconds that open calls have when the stack ends.

    Raises:
        PlaneError: INVALID_ARGUMENT; one of them cannot be.
    """

    folder: Path
    workers: int = 3
    http: str = "127.0.0.1:8080"
    grpc: str | None = None
    policy: str = "kv"
    backend: str | None = None
    grace_s: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= _MAX_WORKERS:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{self.workers} workers: a stack has 1 to {_MAX_WORKERS}",
            )
        if self.policy not in POLICIES:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"there is no policy {self.policy!r}; there are {', '.join(POLICIES)}",
            )

    @property
    def engine(self) -> str:
        """URL of the engine that all of them share."""
        return f"local:{self.folder}"
