"""The processes that make a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protoplane_components.stack.settings import StackSettings

GATEWAY = "gateway"
"""The role that callers from outside know."""

_ANY_PORT = "127.0.0.1:0"

_ROUTER = {
    # Workers of `embedded:` tell nothing of caches, and any tokenizer does for guesses.
    "PROTOPLANE_ROUTER_TOKENIZER": "bytes",
    "PROTOPLANE_ROUTER_WORKERS_WITHOUT_EVENTS": "protoplane/inference",
}


@dataclass(frozen=True, slots=True)
class Role:
    """One process of a stack.

    Attributes:
        name: What it is called here and in the names of its files.
        component: What it serves, ``module`` or ``module:Class``.
        http: Where it listens for HTTP.
        grpc: Where it listens for gRPC; ``None`` for not at all.
        environment: What its environment has beside that of the supervisor.
        defaults: What it has where that of the supervisor does not say.
        order: When it ends: those of a lower number first, as they call the others.
    """

    name: str
    component: str
    http: str = _ANY_PORT
    grpc: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    defaults: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
    order: int = 2


def roles_of(settings: StackSettings) -> tuple[Role, ...]:
    """The processes of a stack, those first that callers meet first."""
    backend = {} if settings.backend is None else {"PROTOPLANE_BACKEND": settings.backend}
    workers = (
        Role(f"worker-{number}", "protoplane_components.inference:Inference", environment=backend)
        for number in range(1, settings.workers + 1)
    )
    return (
        Role(
            GATEWAY,
            "protoplane_components.gateway:Gateway",
            http=settings.http,
            grpc=settings.grpc,
            order=0,
        ),
        Role(
            "orchestrator",
            "protoplane_components.orchestrator:orchestrator",
            environment={"PROTOPLANE_ORCHESTRATOR_POLICY": settings.policy},
            order=1,
        ),
        Role("registry", "protoplane_components.registry:Registry"),
        Role("router", "protoplane_components.kv_router:KvRouter", defaults=_ROUTER),
        *workers,
    )
