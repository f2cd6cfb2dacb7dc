"""How an orchestrator behaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from protoplane_base import Code, PlaneError

PREFIX = "PROTOPLANE_ORCHESTRATOR_"
"""Begins the names of the environment variables."""

POLICIES = ("round-robin", "least-loaded", "power-of-two", "kv")
"""Names of the policies."""

_SWITCH = {"": None, "1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorSettings:
    """How an orchestrator behaves.

    Attributes:
        workers: Path where discovery finds workers: a component or a collection.
        policy: How one of them is chosen, one of `POLICIES`.
        router: Path of the KV router, for the policy ``kv``.
        resume: Whether a text whose worker is lost is gone on with at another, where that can be.
        default_capacity: Most requests at a time of a worker that announces no capacity.
        max_queued: Most requests that wait for a worker; further ones are refused.
        max_attempts: Most workers that are tried for one request, and one more for each time that
            a text is gone on with.
        grace_s: Seconds that a request waits for a worker to come where there is none for it.
        router_timeout_s: Seconds that the router has to answer before it is done without.
        router_again_s: Seconds between two looks whether a router that did not answer is back.
        lease_s: Seconds that a reservation at the router outlives its last sign of life.
        told_every_tokens: Tokens of an answer from one such sign of life to the next.
        ask_timeout_s: Seconds that a worker has to tell which models it has.
        refresh_s: Seconds between two such questions to a worker that announces no models.
        token: Bearer token that opens the workers and the router; empty for none.
    """

    workers: str = "protoplane/inference"
    policy: str = "least-loaded"
    router: str = "protoplane/router"
    resume: bool = False
    default_capacity: int = 64
    max_queued: int = 1024
    max_attempts: int = 4
    grace_s: float = 2.0
    router_timeout_s: float = 0.05
    router_again_s: float = 1.0
    lease_s: float = 60.0
    told_every_tokens: int = 64
    ask_timeout_s: float = 5.0
    refresh_s: float = 10.0
    token: str = ""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{self.policy!r} is no policy of an orchestrator; there are {', '.join(POLICIES)}",
            )
        for name in ("default_capacity", "max_attempts"):
            if getattr(self, name) < 1:
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"{name} is {getattr(self, name)}; 1 is the least"
                )

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """The settings that the environment says.

        By ``PROTOPLANE_ORCHESTRATOR_WORKERS``, ``…_POLICY``, ``…_ROUTER``, ``…_RESUME``,
        ``…_ROUTER_TIMEOUT_S``, ``…_QUEUE``, which is ``max_queued``, and ``…_TOKEN``.

        Raises:
            PlaneError: INVALID_ARGUMENT for a value that is none.
        """
        plain = cls()

        def said(name: str) -> str:
            return environment.get(PREFIX + name, "")

        resume = said("RESUME").lower()
        if resume not in _SWITCH:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{PREFIX}RESUME is {said('RESUME')!r}; it is 1 or 0"
            )
        timeout_s = _seconds("ROUTER_TIMEOUT_S", said("ROUTER_TIMEOUT_S"), plain.router_timeout_s)
        queue = said("QUEUE") or str(plain.max_queued)
        if not (queue.isascii() and queue.isdigit()):
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"{PREFIX}QUEUE is {queue!r}; give the most requests that may wait, 1024 say",
            )
        return cls(
            workers=said("WORKERS") or plain.workers,
            policy=said("POLICY") or plain.policy,
            router=said("ROUTER") or plain.router,
            resume=bool(_SWITCH[resume]),
            router_timeout_s=timeout_s,
            max_queued=int(queue),
            token=said("TOKEN"),
        )


def _seconds(name: str, text: str, default: float) -> float:
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"{PREFIX}{name} is {text!r}; give seconds above 0, 0.05 say"
        )
    return seconds
