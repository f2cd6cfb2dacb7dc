"""A component that counts what it runs, for calls that must not be lost or made twice."""

from __future__ import annotations

import asyncio
from collections import Counter

from forge.captioner.v1 import CollectRequest, CollectResponse
from protoplane_base import Context, MethodKind, MethodSpec, Service, ServiceSpec

ASK: MethodSpec[CollectRequest, CollectResponse] = MethodSpec(
    service="tests.desk.v1.DeskService",
    name="Ask",
    python_name="ask",
    kind=MethodKind.UNARY,
    request=CollectRequest,
    response=CollectResponse,
)
"""No idempotency level: a call that a handler may have seen is not repeated."""


class Desk(Service):
    """Answers with the text turned round.

    Attributes:
        runs: How often each text came.
        pause_s: How long an answer takes.
        release: Where set, answers wait for it instead.
        answer: What it answers, where that is not the text.
    """

    spec = ServiceSpec(
        full_name=ASK.service, component="tests/desk", file="", methods={ASK.name: ASK}
    )

    def __init__(self, *, pause_s: float = 0.0, release: asyncio.Event | None = None) -> None:
        self.runs: Counter[str] = Counter()
        self.pause_s = pause_s
        self.release = release
        self.answer = ""

    async def ask(self, request: CollectRequest, ctx: Context) -> CollectResponse:
        self.runs[request.text] += 1
        if self.release is not None:
            await self.release.wait()
        else:
            await asyncio.sleep(self.pause_s)
        return CollectResponse(text=self.answer or request.text[::-1])
