"""Replies to idempotency keys, remembered so that a call may be repeated: at least once.

A caller that does not know whether its call arrived makes it again with the same key, and gets the
first reply, also while the first is still being worked on. What is remembered follows Stripe
(https://docs.stripe.com/api/idempotent_requests) and Amazon's "Making retries safe with idempotent
APIs" (https://aws.amazon.com/builders-library/making-retries-safe-with-idempotent-APIs/):

- A reply is remembered once the handler has come to an end of its own: an answer, an error that it
  raised, also the INTERNAL of one that crashed. That one may have done half its work already, and
  to do it twice is what the key forbids.
- A call that did not reach the handler left no trace: it was malformed, broke a rule, was refused.
- Neither do codes by which a handler asks to be called again (UNAVAILABLE, RESOURCE_EXHAUSTED,
  ABORTED, UNAUTHENTICATED), or says that its time was over (DEADLINE_EXCEEDED, CANCELLED): such a
  reply would make a passing fault last as long as the memory.
- The same key with another request is INVALID_ARGUMENT, so that nobody takes the reply to one
  request for the reply to another.

The memory is that of one process: a call that is repeated at another instance runs again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import Any

from google.rpc import status_pb2

from protoplane_base import Code, Metadata, MethodSpec, PlaneError
from protoplane_server.context import CallContext
from protoplane_server.errors import from_encode_error, from_status, to_status
from protoplane_server.limits import Limits
from protoplane_server.metrics import ReplyStats

_log = logging.getLogger("protoplane.server")

MAX_KEY_CHARS = 255
"""Longest idempotency key that is taken."""

REPLAYED = "idempotent-replayed"
"""Trailer, ``true``, of a reply that was given before to another call with the same key."""

_CALL_AGAIN = frozenset(
    {
        Code.CANCELLED,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.UNAVAILABLE,
        Code.UNAUTHENTICATED,
    }
)

_Slot = tuple[str, str, str]
"""Path of the method, identity of the caller, key."""

Handle = Callable[[CallContext, Any], Awaitable[Any]]
"""Runs the handler; it raises nothing but `PlaneError`, and ends cancelled when it is cancelled."""


@dataclass(slots=True)
class _Reply:
    """What was answered, encoded: nobody can change it for the next one.

    Attributes:
        digest: Of the request that it is the reply to.
        body: The answer, or a ``google.rpc.Status`` where the call failed.
        code: OK, or what the call failed with.
        trailers: What the handler sent after the answer.
        until: When it is forgotten, by ``time.monotonic``.
    """

    digest: bytes
    body: bytes
    code: Code
    trailers: Metadata
    until: float = 0.0

    def size(self, slot: _Slot) -> int:
        """Bytes that count for it."""
        texts = sum(len(name) + len(value) for name, value in self.trailers.items())
        return len(self.body) + len(self.digest) + texts + sum(map(len, slot))

    def repeat(self, ctx: CallContext) -> Any:
        """Answer another call with it."""
        ctx.trailers.update(self.trailers)
        ctx.trailers[REPLAYED] = "true"
        if self.code is not Code.OK:
            raise from_status(status_pb2.Status.FromString(self.body))
        return ctx.method.response.from_bytes(self.body)


@dataclass(slots=True, eq=False)
class _Work:
    """A handler that runs for all who wait for its reply.

    Attributes:
        context: What the handler is given: none of those who wait, since each may leave.
        digest: Of the request.
        waiting: How many wait.
        abandoned: Whether all have left, so that it is being cancelled.
        answer: The answer itself, for the caller whose request it was.
        error: What the handler raised instead.
        reply: Both, encoded, for all others; ``None`` until it ends, and where it was cancelled.
    """

    context: CallContext
    digest: bytes
    waiting: int = 0
    abandoned: bool = False
    answer: Any = None
    error: PlaneError | None = None
    reply: _Reply | None = None
    task: asyncio.Task[None] = field(init=False)


class Replies:
    """Sees to it that a unary call with an idempotency key runs once while its reply is remembered.

    Streams are not remembered: a key on one has no effect.

    Args:
        limits: How many are remembered, and for how long. What is too old is let go when the next
            call with a key comes.
        stats: Where to count.
    """

    def __init__(self, limits: Limits, stats: ReplyStats) -> None:
        self._limits = limits
        self._stats = stats
        self._kept: dict[_Slot, _Reply] = {}  # In the order in which they end.
        self._bytes = 0
        self._open: dict[_Slot, _Work] = {}
        self._warned = False

    async def answer(self, ctx: CallContext, request: Any, key: str | bytes, handle: Handle) -> Any:
        """The reply to a call: an earlier one to the same key, or what the handler gives now.

        The handler runs in a task of its own. Cancelling a call leaves it to those who wait for the
        same reply; when there is none left, it is cancelled, and this waits until it has ended.

        Args:
            ctx: The call; it gets the trailers of the reply.
            request: Its request, checked.
            key: What the caller chose.
            handle: Runs the handler.

        Raises:
            PlaneError: The call fails, or failed when it was made first; INVALID_ARGUMENT for a
                bad key, or one that came with another request.
        """
        slot = (ctx.entry.path, ctx.info.identity, _key(key))
        digest = _digest(ctx.method, request)
        while True:
            self._forget_old()
            reply = self._kept.get(slot)
            if reply is not None:
                _same(slot, reply.digest, digest)
                self._stats.repeated += 1
                return reply.repeat(ctx)
            work = self._open.get(slot)
            if work is None or work.task.done():
                return await self._first(ctx, request, slot, digest, handle)
            _same(slot, work.digest, digest)
            if not work.abandoned:
                self._stats.repeated += 1
                await _join(ctx, work)
                if work.reply is None:
                    raise _interrupted(ctx)
                return work.reply.repeat(ctx)
            # Its end may still be an answer; if not, this call is the first again.
            await _ended(ctx, work)

    async def _first(
        self, ctx: CallContext, request: Any, slot: _Slot, digest: bytes, handle: Handle
    ) -> Any:
        work = _Work(ctx.twin(), digest)
        work.task = asyncio.create_task(self._run(slot, work, request, handle))

        # Not in the task itself: one that is cancelled before it begins runs nothing.
        def over(_: asyncio.Task[None]) -> None:
            work.context.over = True
            if self._open.get(slot) is work:
                del self._open[slot]

        self._open[slot] = work
        work.task.add_done_callback(over)
        await _join(ctx, work)
        ctx.trailers.update(work.context.trailers)
        if work.error is not None:
            raise work.error
        if work.reply is None:
            raise _interrupted(ctx)
        return work.answer

    async def _run(self, slot: _Slot, work: _Work, request: Any, handle: Handle) -> None:
        try:
            work.answer = await handle(work.context, request)
        except PlaneError as error:
            work.error = error
        try:
            work.reply = _encoded(work)
        except Exception as error:  # noqa: BLE001  # whatever it is, all who wait must be told
            _log.exception("%s: the reply cannot be encoded", work.context.entry.path)
            work.error = from_encode_error(error)
            work.reply = _encoded(work)
        if work.reply.code not in _CALL_AGAIN:
            self._keep(slot, work.reply)

    def _keep(self, slot: _Slot, reply: _Reply) -> None:
        limits = self._limits
        size = reply.size(slot)
        if size > limits.max_replies_bytes:
            self._forgot("bytes")
            return
        reply.until = monotonic() + limits.remember_replies_s
        self._kept[slot] = reply
        self._bytes += size
        while len(self._kept) > limits.max_replies:
            self._forget_first("count")
        while self._bytes > limits.max_replies_bytes:
            self._forget_first("bytes")
        self._stats.remembered = len(self._kept)

    def _forget_old(self) -> None:
        if not self._kept:
            return
        now = monotonic()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget_first("age")
        self._stats.remembered = len(self._kept)

    def _forget_first(self, reason: str) -> None:
        slot = next(iter(self._kept))
        self._bytes -= self._kept.pop(slot).size(slot)
        self._forgot(reason)

    def _forgot(self, reason: str) -> None:
        self._stats.forgotten[reason] += 1
        if reason != "age" and not self._warned:
            self._warned = True
            limits = self._limits
            _log.warning(
                "a reply to an idempotency key is forgotten before its time, past %d replies or "
                "%d bytes; a call that is repeated then runs again "
                "(protoplane_replies_forgotten_total counts on)",
                limits.max_replies,
                limits.max_replies_bytes,
            )


async def _join(ctx: CallContext, work: _Work) -> None:
    """Wait for the end of the work; the last one to leave before that cancels it."""
    theirs = work.context
    if theirs.deadline is not None:
        late = ctx.deadline is None or ctx.deadline > theirs.deadline
        theirs.deadline = ctx.deadline if late else theirs.deadline
    work.waiting += 1
    try:
        await _ended(ctx, work)
    finally:
        work.waiting -= 1
        if not (work.waiting or work.task.done()):
            work.abandoned = True
            await _cancel(work.task)


async def _ended(ctx: CallContext, work: _Work) -> None:
    left_s = None if ctx.deadline is None else max(0.0, ctx.deadline - monotonic())
    _, late = await asyncio.wait((work.task,), timeout=left_s)
    if late:
        raise ctx.too_late()


async def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; each cancellation of the caller is handed on to it."""
    again: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            again = error
    if again is not None:
        raise again


def _encoded(work: _Work) -> _Reply:
    error = work.error
    if error is None:
        code, body = Code.OK, work.context.method.response.to_bytes(work.answer)
    else:
        code, body = error.code, to_status(error).SerializeToString()
    return _Reply(work.digest, body, code, work.context.trailers)


def _key(key: str | bytes) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the idempotency-key has {len(key)} characters; it takes 1 to {MAX_KEY_CHARS} of "
            "printable ASCII",
        )
    return key


def _digest(method: MethodSpec[Any, Any], request: Any) -> bytes:
    pb = method.request.to_pb(request)
    return blake2b(pb.SerializeToString(deterministic=True), digest_size=16).digest()


def _same(slot: _Slot, before: bytes, now: bytes) -> None:
    if before != now:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"the idempotency-key {slot[2]!r} came before with another request to {slot[0]}; "
            "a key stands for one request, so give each its own",
        )


def _interrupted(ctx: CallContext) -> PlaneError:
    return PlaneError(Code.CANCELLED, f"the handler of {ctx.entry.path} was cancelled")
