"""What is done around each request: who asks, whether they may, and what it came to."""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Self
from urllib.parse import unquote

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.access import GatewayAccess
from protoplane_components.gateway.admission import Admission
from protoplane_components.gateway.audit import AuditLog, AuditRecord, now
from protoplane_components.gateway.callers import Caller, name_of
from protoplane_components.gateway.metrics import GatewayMetrics
from protoplane_runtime.link.errors import UnsentError
from protoplane_server import CallContext, Context

_log = logging.getLogger("protoplane.gateway")

ANYBODY = Caller("")
"""The caller where everybody may call."""


class Accounting:
    """Opens an entry for each request.

    Args:
        access: Whom the gateway knows; ``None`` where everybody may call.
        admission: Lets requests begin.
        audit: Keeps what they came to.
        metrics: Counts them.
    """

    def __init__(
        self,
        access: GatewayAccess | None,
        admission: Admission,
        audit: AuditLog,
        metrics: GatewayMetrics,
    ) -> None:
        self.access = access
        self.admission = admission
        self.audit = audit
        self.metrics = metrics
        self._away = ""

    def caller(self, ctx: Context) -> Caller:
        """Who makes a call.

        Raises:
            PlaneError: UNAUTHENTICATED where their key has expired, or was taken back.
        """
        return ANYBODY if self.access is None else self.access.caller_of(ctx.identity)

    def counted_for(self, caller: Caller, ctx: Context) -> str:
        """Whom a call is counted for: their name, or where they call from."""
        return caller.name or _host(ctx.peer)

    def request(self, ctx: Context, model: str | None) -> Entry:
        """An entry for a request; enter it before the work, leave it after.

        Args:
            ctx: The call.
            model: The model that is asked for, empty for any; ``None`` for a request that asks
                for none, which is not one of those that its caller has so many of.
        """
        return Entry(self, ctx, model)

    def turned_away(self, ctx: CallContext, path: str, error: PlaneError) -> None:
        """Note a request that became no call, because it could not be read for example."""
        self.metrics.ended(method="", code=error.code.name)
        if self.audit.on:
            self.audit.add(
                AuditRecord(
                    time=now(),
                    key=name_of(ctx.identity),
                    request_id=ctx.request_id,
                    door=ctx.info.door,
                    peer=ctx.peer,
                    method=path[:200],
                    model="",
                    status=error.code.name,
                )
            )

    def note_away(self, why: str) -> None:
        """Log why what is behind the gateway cannot be reached; once, until it is there again."""
        if why != self._away:
            self._away = why
            _log.warning("%s", why)

    def note_there(self) -> None:
        """Note that what is behind the gateway has answered."""
        self._away = ""

    def refused(self, error: PlaneError, ctx: CallContext | None) -> None:
        """Note that somebody was not let in; of what is no call, links too, no more is known."""
        self.metrics.ended(method="", code=error.code.name)
        self.audit.add(
            AuditRecord(
                time=now(),
                key="",
                request_id="" if ctx is None else ctx.request_id,
                door="" if ctx is None else ctx.info.door,
                peer="" if ctx is None else ctx.peer,
                method="" if ctx is None else ctx.method.name,
                model="",
                status=error.code.name,
            )
        )


class Entry:
    """One request, from when it may begin to its end.

    Entering it raises `PlaneError` where the request may not begin.

    Attributes:
        caller: Who asks; set once it is entered.
        model: The model that answers, as far as it is known.
        prompt_tokens: Tokens that were read.
        completion_tokens: Tokens that were written.
    """

    __slots__ = (
        "_accounting",
        "_asks",
        "_began",
        "_ctx",
        "_first_s",
        "_who",
        "caller",
        "completion_tokens",
        "model",
        "prompt_tokens",
    )

    def __init__(self, accounting: Accounting, ctx: Context, model: str | None) -> None:
        self._accounting = accounting
        self._ctx = ctx
        self._asks = model is not None
        self._began = perf_counter()
        self._first_s: float | None = None
        self._who = ""
        self.caller = ANYBODY
        self.model = model or ""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __aenter__(self) -> Self:
        accounting, ctx = self._accounting, self._ctx
        ctx.set_trailer("x-request-id", ctx.request_id)
        try:
            self.caller = caller = accounting.caller(ctx)
            if self._asks:
                caller.check_model(self.model)
            self._who = who = accounting.counted_for(caller, ctx)
            await accounting.admission.enter(caller, who, ctx.set_trailer, counted=self._asks)
        except BaseException as error:
            self._note(_status(error))
            raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        admission = self._accounting.admission
        admission.leave(self._who)
        self._note("OK" if error is None else _status(error))
        await admission.used(self.caller, self._who, self.prompt_tokens + self.completion_tokens)
        if error is None:
            self._accounting.note_there()
        elif isinstance(error, UnsentError):
            self._accounting.note_away(error.message)
            # Where it was to be sent is nobody's business outside.
            raise PlaneError(
                error.code, "what answers behind this gateway is away; ask again"
            ) from error

    def answered(self) -> None:
        """The first piece of the answer is there."""
        if self._first_s is None:
            self._first_s = perf_counter() - self._began

    def _note(self, status: str) -> None:
        ctx = self._ctx
        took_s = perf_counter() - self._began
        method = ctx.method.name
        self._accounting.metrics.ended(
            key=self.caller.name,
            model=self.model,
            method=method,
            code=status,
            took_s=took_s,
            first_s=self._first_s,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
        )
        audit = self._accounting.audit
        if audit.on:
            audit.add(
                AuditRecord(
                    time=now(),
                    key=self.caller.name or name_of(ctx.identity),
                    request_id=ctx.request_id,
                    door=ctx.info.door if isinstance(ctx, CallContext) else "",
                    peer=ctx.peer,
                    method=method,
                    model=self.model,
                    status=status,
                    prompt_tokens=self.prompt_tokens,
                    completion_tokens=self.completion_tokens,
                    duration_ms=round(took_s * 1000, 3),
                )
            )


def _status(error: BaseException) -> str:
    if isinstance(error, PlaneError):
        return error.code.name
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return Code.CANCELLED.name
    return Code.INTERNAL.name


def _host(peer: str) -> str:
    """Where somebody without a name calls from, without the port: the same at every door."""
    # gRPC says ipv4:127.0.0.1:1234 and ipv6:%5B::1%5D:1234.
    address = unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:"))
    return address.rpartition(":")[0].strip("[]") or peer
