"""Where all doors meet: finds the handler of a call and runs the chain around it, once.

The chain is: drain and limits, validation, replies to repeated calls, deadline, the handler,
errors, metrics. A door decodes what came, calls `Dispatcher.begin`, then `Dispatcher.unary` or
`Dispatcher.stream`, and encodes what it gets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextvars import Token
from time import monotonic, perf_counter
from typing import Any, TypeVar

from protoplane_base import Code, Message, MethodKind, MethodSpec, PlaneError, Service
from protoplane_runtime.calling import IDEMPOTENCY_KEY, ServedCall, serving
from protoplane_runtime.engines.interface import EventLog
from protoplane_server.access import Access
from protoplane_server.context import CallContext, CallInfo
from protoplane_server.deadlines import Deadlines
from protoplane_server.limits import Limits
from protoplane_server.metrics import CallStats, Metrics
from protoplane_server.replies import Replies
from protoplane_server.validation import Check, check_of

_log = logging.getLogger("protoplane.server")
_END: Any = object()
_T = TypeVar("_T")

# Python finds a member of an enum slowly, and every call asks for these.
_OK = Code.OK
_UNARY = MethodKind.UNARY


class Entry:
    """One method of a component, ready to be called.

    Attributes:
        method: What the schema says of it.
        path: ``/package.Service/Method``.
        handler: What the component defines for it.
        check: Checks the rules of a request, where it has any.
        answers: Class that every answer must have; ``None`` where it has no class of its own.
        stats: Its numbers, by door.
    """

    __slots__ = ("answers", "check", "handler", "method", "path", "stats")

    def __init__(self, service: Service, method: MethodSpec[Any, Any]) -> None:
        self.method = method
        self.path = method.path
        self.handler: Callable[[Any, Any], Any] = getattr(service, method.python_name)
        self.check: Check | None = check_of(method.request)
        answers: Any = method.response
        self.answers: type[Message] | None = (
            answers if isinstance(answers, type) and issubclass(answers, Message) else None
        )
        self.stats: dict[str, CallStats] = {}


class Dispatcher:
    """The methods of a component, and the chain that every call to one goes through.

    It belongs to the event loop of its first call.

    Args:
        services: What implements them; each service of a schema at most once.
        events: Where handlers publish.
        limits: Bounds on what is taken on.
        metrics: Where to count; by default counts of its own.
        access: Who may call; everybody where absent.
        endless: Paths of methods whose calls last until somebody ends them: a drain ends them at
            once.

    Raises:
        ValueError: There is no service, or two implement the same one.
        MissingExtraError: A schema has rules that need the extra ``validate``.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        events: EventLog,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        metrics: Metrics | None = None,
        access: Access | None = None,
        endless: Collection[str] = (),
    ) -> None:
        if not services:
            raise ValueError("a component needs at least one service")
        self.services = tuple(services)
        self.events = events
        self.limits = limits
        self.metrics = Metrics() if metrics is None else metrics
        self.access = access
        self._endless = frozenset(endless)
        self._entries: dict[str, Entry] = {}
        for service in self.services:
            for method in service.spec.methods.values():
                if method.path in self._entries:
                    raise ValueError(f"two services implement {service.spec.full_name}")
                self._entries[method.path] = Entry(service, method)
        # By identity, because hashing a spec means hashing all that it says.
        self._by_spec = {id(entry.method): entry for entry in self._entries.values()}
        self._deadlines = Deadlines()
        self._replies = Replies(limits, self.metrics.replies)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[CallContext, asyncio.Task[Any] | None] = {}
        self._drained: asyncio.Event | None = None
        self._bounded = access is not None or limits.max_concurrent_calls is not None

    def guard(self, access: Access) -> None:
        """Let only those in who it knows, from now on."""
        self.access = access
        self._bounded = True

    @property
    def draining(self) -> bool:
        """Whether new calls are refused because the server is going away."""
        return self._drained is not None

    @property
    def open_calls(self) -> int:
        """How many calls are being served."""
        return len(self._open)

    def method(self, path: str) -> MethodSpec[Any, Any]:
        """The method at a path, ``/package.Service/Method``.

        Raises:
            PlaneError: UNIMPLEMENTED, with what there is instead.
        """
        entry = self._entries.get(path)
        if entry is not None:
            return entry.method
        name = path.removeprefix("/").partition("/")[0]
        for service in self.services:
            if service.spec.full_name == name:
                has = ", ".join(service.spec.methods)
                raise PlaneError(
                    Code.UNIMPLEMENTED, f"there is no method {_cut(path)} here; {name} has {has}"
                )
        served = ", ".join(service.spec.full_name for service in self.services)
        raise PlaneError(
            Code.UNIMPLEMENTED, f"there is no method {_cut(path)} here; served are {served}"
        )

    def begin(self, method: MethodSpec[Any, Any], info: CallInfo) -> CallContext:
        """Start a call: its context, whose deadline runs from now on.

        Nothing needs to be ended for a context that is never used.

        Raises:
            PlaneError: UNIMPLEMENTED for a method that is not served here.
        """
        entry = self._by_spec.get(id(method))
        if entry is None:
            path = method.path
            entry = self._by_spec[id(self.method(path))]
        return CallContext(entry, info, self.events, self.limits.max_timeout_s)

    def refuse(self, ctx: CallContext, error: PlaneError) -> PlaneError:
        """Count a call that its door could not even decode; gives the error back, to be raised."""
        self._stats(ctx).ended(error.code, 0.0)
        return error

    async def unary(self, ctx: CallContext, request: Any) -> Any:
        """Serve a call that has one answer.

        Cancelling it cancels the handler, unless others wait for the same reply; see `Replies`.

        Args:
            ctx: From `begin`, used once.
            request: The request, or an async iterator of requests where the caller streams. The
                door closes that iterator.

        Raises:
            PlaneError: The call failed; nothing else but cancellation leaves here.
        """
        entry = ctx.entry
        info = ctx.info
        stats = entry.stats.get(info.door) or self._stats(ctx)
        started = perf_counter()
        code = _OK
        checked: AsyncGenerator[Any, None] | None = None
        stats.in_flight += 1
        try:
            # Mostly nothing is bounded, and then there is no question.
            if self._bounded or ctx.deadline is not None:
                self._admit(ctx)
            # Told the loop, it answers several times faster.
            self._open[ctx] = asyncio.current_task(self._loop or self._running())
            if entry.check is not None:
                if entry.method.kind.client_streaming:
                    request = checked = _checked(request, entry.check)
                else:
                    entry.check(request)
            if IDEMPOTENCY_KEY in info.metadata and entry.method.kind is _UNARY:
                key = info.metadata[IDEMPOTENCY_KEY]
                return await self._replies.answer(ctx, request, key, _handle)
            before = serving.set(ctx)
            try:
                if ctx.deadline is None:
                    answer = await entry.handler(request, ctx)
                else:
                    self._deadlines.watch(ctx)
                    answer = await self._deadlines.within(ctx, entry.handler(request, ctx))
            finally:
                _restore(before)
            if entry.answers is not None and not isinstance(answer, entry.answers):
                raise _wrong_answer(entry, answer)
        except BaseException as error:
            failure = _failure(ctx, error)
            code = _code(ctx, failure)
            if failure is error:
                raise
            raise failure from error
        else:
            return answer
        finally:
            if checked is not None:
                await checked.aclose()
            stats.in_flight -= 1
            stats.ended(code, perf_counter() - started)
            self._end(ctx)

    def at_once(
        self, ctx: CallContext, answer: Callable[[bytes, CallContext], _T | None], request: bytes
    ) -> _T | None:
        """Serve a call that has one answer, for which nothing is waited.

        Args:
            ctx: From `begin`, used once.
            answer: Answers it, in place of the handler.
            request: The request, encoded.

        Returns:
            The answer; ``None`` leaves the call to `unary`, with another context. Nothing has been
            counted then.

        Raises:
            PlaneError: The call failed.
        """
        entry = ctx.entry
        info = ctx.info
        # Others may wait for the same reply; and rules are checked of a request that is read.
        if IDEMPOTENCY_KEY in info.metadata or entry.check is not None:
            return None
        started = perf_counter()
        stats = entry.stats.get(info.door) or self._stats(ctx)
        try:
            if self._bounded or ctx.deadline is not None:
                self._admit(ctx)
            before = serving.set(ctx)
            try:
                answered = answer(request, ctx)
            finally:
                _restore(before)
        except Exception as error:
            failure = _failure(ctx, error)
            stats.ended(_code(ctx, failure), perf_counter() - started)
            if failure is error:
                raise
            raise failure from error
        finally:
            ctx.over = True
        if answered is not None:
            stats.ended(_OK, perf_counter() - started)
        return answered

    def stream(self, ctx: CallContext, request: Any) -> AsyncGenerator[Any, None]:
        """Serve a call that has any number of answers.

        Limits and rules are checked before this returns, so a door can refuse a bad request before
        it answers. The door must ``aclose`` what it gets; that, and cancelling the task that
        iterates, closes the handler.

        Args:
            ctx: From `begin`, used once.
            request: As for `unary`.

        Returns:
            An async generator of the answers; it raises as `unary` does.

        Raises:
            PlaneError: The call is refused.
        """
        entry = ctx.entry
        checked: AsyncGenerator[Any, None] | None = None
        try:
            self._admit(ctx)
            if entry.check is not None:
                if entry.method.kind.client_streaming:
                    request = checked = _checked(request, entry.check)
                else:
                    entry.check(request)
        except Exception as error:
            failure = _failure(ctx, error)
            assert isinstance(failure, PlaneError)
            self._stats(ctx).ended(failure.code, 0.0)
            raise failure from error
        return self._stream(ctx, request, checked)

    async def drain(self, grace_s: float) -> None:
        """Refuse new calls with UNAVAILABLE and wait until none is open.

        Args:
            grace_s: Seconds that open calls have; those that take longer are cancelled and their
                callers get UNAVAILABLE.
        """
        if self._drained is None:
            self._drained = asyncio.Event()
            self._bounded = True
        self._drop([ctx for ctx in self._open if ctx.entry.path in self._endless])
        if not self._open:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        except TimeoutError:
            _log.warning("%d calls are still open after %s s; dropped", len(self._open), grace_s)
            self._drop(tuple(self._open))
            try:
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._drained.wait()
            except TimeoutError:
                _log.error("%d handlers ignore that they are cancelled", len(self._open))

    async def _stream(
        self, ctx: CallContext, request: Any, checked: AsyncGenerator[Any, None] | None
    ) -> AsyncGenerator[Any, None]:
        entry = ctx.entry
        stats = self._stats(ctx)
        started = perf_counter()
        code = _OK
        stats.in_flight += 1
        self._open[ctx] = asyncio.current_task(self._loop or self._running())
        answers: Any = None
        try:
            answers = entry.handler(request, ctx)
            if not hasattr(answers, "__anext__"):
                raise _wrong_answer(entry, answers)
            self._deadlines.watch(ctx)
            klass = entry.answers
            while True:
                if ctx.late:
                    raise ctx.too_late()
                before = serving.set(ctx)
                try:
                    if ctx.deadline is None:
                        answer = await anext(answers, _END)
                    else:
                        answer = await self._deadlines.within(ctx, _step(answers))
                finally:
                    _restore(before)
                if answer is _END:
                    break
                if klass is not None and not isinstance(answer, klass):
                    raise _wrong_answer(entry, answer)
                stats.messages_sent += 1
                yield answer
        except GeneratorExit:
            code = Code.CANCELLED
            raise
        except BaseException as error:
            failure = _failure(ctx, error)
            code = _code(ctx, failure)
            if failure is error:
                raise
            raise failure from error
        finally:
            try:
                await _close(ctx, answers)
                if checked is not None:
                    await checked.aclose()
            finally:
                stats.in_flight -= 1
                stats.ended(code, perf_counter() - started)
                self._end(ctx)

    def _drop(self, calls: Iterable[CallContext]) -> None:
        """Cancel calls; their callers get UNAVAILABLE."""
        for ctx in calls:
            ctx.dropped = True
            task = self._open[ctx]
            if task is not None:
                task.cancel()

    def _stats(self, ctx: CallContext) -> CallStats:
        door = ctx.info.door
        stats = ctx.entry.stats.get(door)
        if stats is None:
            stats = ctx.entry.stats[door] = self.metrics.stats(ctx.entry.path, door)
        return stats

    def _admit(self, ctx: CallContext) -> None:
        if self.access is not None and not ctx.info.identity:
            ctx.info.identity = self.access.of_call(ctx)
        if self._drained is not None:
            ctx.refused = True
            raise PlaneError(Code.UNAVAILABLE, "the server is shutting down; call another instance")
        most = self.limits.max_concurrent_calls
        if most is not None and len(self._open) >= most:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"{most} calls are open, the most that this server takes at once; try again later",
            )
        if ctx.deadline is not None and ctx.deadline <= monotonic():
            raise ctx.too_late()

    def _running(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _end(self, ctx: CallContext) -> None:
        ctx.over = True
        self._open.pop(ctx, None)
        if self._drained is not None and not self._open:
            self._drained.set()


_LAST_WORDS_S = 2.0
"""How long cancelled handlers have to clean up when the server goes away."""


async def _handle(ctx: CallContext, request: Any) -> Any:
    """Run a handler in a task of its own; each who waits for its reply minds its own deadline."""
    serving.set(ctx)
    entry = ctx.entry
    try:
        answer = await entry.handler(request, ctx)
        if entry.answers is not None and not isinstance(answer, entry.answers):
            raise _wrong_answer(entry, answer)
    except BaseException as error:
        failure = _failure(ctx, error)
        if failure is error:
            raise
        raise failure from error
    return answer


def _restore(before: Token[ServedCall | None]) -> None:
    try:
        serving.reset(before)
    except ValueError:
        # The loop is gone, and the collector closes what was left of the call in a context of its
        # own, where there is nothing to restore.
        return


async def _step(answers: AsyncIterator[Any]) -> Any:
    return await anext(answers, _END)


async def _checked(requests: AsyncIterator[Any], check: Check) -> AsyncGenerator[Any, None]:
    async for request in requests:
        check(request)
        yield request


async def _close(ctx: CallContext, answers: Any) -> None:
    close = getattr(answers, "aclose", None) or getattr(answers, "close", None)
    if close is None:
        return
    before = serving.set(ctx)
    try:
        closing = close()
        if closing is not None:
            await closing
    except Exception:  # noqa: BLE001  # the call has its outcome already
        _log.exception("%s failed while it was closed (request %s)", ctx.entry.path, ctx.request_id)
    finally:
        _restore(before)


def _failure(ctx: CallContext, error: BaseException) -> BaseException:
    """The exception that leaves the chain for one that a handler raised."""
    if isinstance(error, PlaneError):
        if error.code is not Code.OK:
            return error
    elif isinstance(error, asyncio.CancelledError):
        if not ctx.dropped:
            return error
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        return PlaneError(Code.UNAVAILABLE, "the server shut down before the call was done")
    elif not isinstance(error, Exception):
        return error
    _log.error(
        "%s failed (request %s, from %s)",
        ctx.entry.path,
        ctx.request_id,
        ctx.peer,
        exc_info=error,
    )
    return PlaneError(
        Code.INTERNAL, f"{ctx.entry.path} failed; the server's log says why ({ctx.request_id})"
    )


def _code(ctx: CallContext, failure: BaseException) -> Code:
    """What a failure is counted as."""
    if isinstance(failure, PlaneError):
        return failure.code
    # gRPC's core cancels a call whose deadline passed, maybe before its timer here went off.
    late = ctx.deadline is not None and monotonic() >= ctx.deadline
    return Code.DEADLINE_EXCEEDED if late else Code.CANCELLED


def _wrong_answer(entry: Entry, answer: Any) -> TypeError:
    name = f"{entry.method.python_name}()"
    if entry.method.kind.server_streaming and not hasattr(answer, "__anext__"):
        return TypeError(f"{name} must be an async generator: async def with a yield in it")
    expected = entry.answers.__name__ if entry.answers else "its response"
    return TypeError(f"{name} must answer with {expected}, not {type(answer).__name__}")


def _cut(path: str) -> str:
    return path if len(path) <= 200 else path[:200] + "…"
