"""A channel over many instances: balances, tries again, hedges, and lets instances go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Generic, Self, TypeVar

from protoplane_base import CallOptions, Code, MethodSpec, PlaneError
from protoplane_client.addressing import means, path_of
from protoplane_client.backoff import Backoff
from protoplane_client.balancing import Picker, PowerOfTwoChoices, Sticky
from protoplane_client.breaker import BreakerPolicy
from protoplane_client.hedging import HedgePolicy, first_answer
from protoplane_client.inprocess_channel import InprocessChannel
from protoplane_client.member import Attempt, Member
from protoplane_client.retrying import RetryBudget, RetryPolicy, may_repeat
from protoplane_client.route import ConnectionState, Route
from protoplane_runtime.calling import outgoing_timeout_s, serving
from protoplane_runtime.entities import EntityId
from protoplane_runtime.link.errors import UnsentError

_Req = TypeVar("_Req")
_Res = TypeVar("_Res")

_FIRST_LOOK_S = 0.001
_LAST_LOOK_S = 0.05


class BalancedChannel:
    """A `Channel` over a set of routes that may change while calls are open.

    A call goes to a route that is not draining, whose connection has not failed for good and whose
    breaker lets it through; among these, to one that is connected, or that is disconnected and
    connects for it; and among these, to the one that the picker chooses, or that the call's
    ``entity`` or ``sticky_key`` means.

    What is made again when it fails, within the call's own ``timeout_s`` and the budget:

    - any call that reached no handler (`UnsentError`), at once where there is another route;
    - a unary call that may be repeated (see `may_repeat`);
    - a server stream that may be repeated, as long as it has not answered;
    - a stream of requests only where no handler was reached, and no request was asked for yet.

    A plain unary call to the only route, where that one leads into this process, is simply made.

    Where routes are only about to connect, or there is none that is not draining, a call waits for
    one: ``ready_s`` at most, and never past its timeout. Where the others are known not to work it
    fails at once.

    Args:
        routes: The routes to begin with; the channel closes them.
        picker: Chooses among those that can take a call; the power of two choices by default.
        retries: Which calls are made again, how often, and how long apart.
        budget: How many may be; channels can share one. Its own by default.
        hedging: Hedges every unary call that may be repeated. Without it, only calls that say
            ``hedge_after_s`` are hedged.
        breaking: When a route is left alone.
        ready_s: Longest wait for a route; zero fails instead.

    Attributes:
        absence: Says why there are no routes, where others bring them; then it is worth waiting for
            the first.
    """

    def __init__(
        self,
        routes: Iterable[Route] = (),
        *,
        picker: Picker | None = None,
        retries: RetryPolicy | None = None,
        budget: RetryBudget | None = None,
        hedging: HedgePolicy | None = None,
        breaking: BreakerPolicy | None = None,
        ready_s: float = 5.0,
    ) -> None:
        self._picker = picker or PowerOfTwoChoices()
        self._retries = retries or RetryPolicy()
        self._budget = budget or RetryBudget()
        self._hedging = hedging
        self._breaking = breaking or BreakerPolicy()
        self._ready_s = ready_s
        self._members: list[Member] = []
        self._sole: Member | None = None
        self._inside: InprocessChannel | None = None
        self._leaving: list[Member] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._closed = False
        self.absence: Callable[[], str] | None = None
        self.replace(routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes that take new calls, draining ones included."""
        return tuple(member.route for member in self._members)

    def replace(self, routes: Iterable[Route]) -> None:
        """Change what new calls may go to.

        A route that is no longer among them finishes the calls that it has and is then closed.
        One that stays keeps what its breaker knows. Needs a running loop where routes leave.

        Args:
            routes: All that there are from now on.

        Raises:
            PlaneError: FAILED_PRECONDITION once the channel is closed.
        """
        self._require_open()
        known = {id(member.route): member for member in (*self._members, *self._leaving)}
        wanted = {id(route): route for route in routes}
        before = self._members
        self._members = [
            known.get(identity) or Member(route, self._breaking)
            for identity, route in wanted.items()
        ]
        self._sole = self._members[0] if len(self._members) == 1 else None
        only = self._sole.route if self._sole is not None and self._hedging is None else None
        self._inside = only if isinstance(only, InprocessChannel) else None
        for member in self._leaving:
            if id(member.route) in wanted:
                member.on_idle = None
        self._leaving = [member for member in self._leaving if id(member.route) not in wanted]
        gone = [member for member in before if id(member.route) not in wanted]
        self._leaving += gone
        for member in gone:
            member.leave(self._close_idle)
        self._wake()

    def unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> Coroutine[Any, Any, _Res]:
        """One message there, one back; see `protoplane_base.Channel`."""
        # Inside a process there is no connection to lose, and nobody else to ask instead.
        if self._inside is not None and not options:
            return self._inside.unary(method, request, options)
        return self._unary(method, request, options)

    async def _unary(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> _Res:
        # The usual call, plain and to the only route, needs nothing remembered unless it fails.
        call: _Call | None = None
        if options or self._hedging is not None or self._closed:
            call = self._begin(method, options)
            if self._hedging is not None or "hedge_after_s" in options:
                policy = self._hedging if (asked := _hedging_of(call)) is None else asked
                if policy is not None and call.repeatable:
                    return await self._hedged(call, policy, method, request)
        else:
            self._budget.deposit()
        while True:
            member = self._sole if call is None else None
            if member is None or not member.ready:
                call = call or _Call(method, options)
                member = self._pick(call) or await self._ready(call)
            # As `Attempt` does, without making one for each of so many calls.
            attempt = member.begin()
            try:
                answer = await member.route.unary(
                    method, request, options if call is None else call.options
                )
            except PlaneError as error:
                member.end(attempt, error)
                call = call or _Call(method, options)
                call.tried.append(member)
                call.failure = error
            except BaseException as error:
                member.end(attempt, error)
                raise
            else:
                member.end(attempt)
                return answer
            await self._again(call)

    def server_stream(
        self, method: MethodSpec[_Req, _Res], request: _Req, options: CallOptions
    ) -> AsyncIterator[_Res]:
        """One message there, any number back; the call starts when the first is asked for."""

        def begin(route: Route, call: _Call) -> AsyncIterator[_Res]:
            return route.server_stream(method, request, call.options)

        return self._answers(method, options, begin)

    async def client_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> _Res:
        """Any number there, one back; an error of ``requests`` ends the call and is raised."""
        _refuse_hedging(method, options)
        call = self._begin(method, options)
        outgoing = _Requests(call, requests)
        while True:
            member = self._pick(call) or await self._ready(call)
            try:
                with call.attempt(member):
                    return await member.route.client_stream(method, outgoing, call.options)
            except PlaneError as error:
                call.failure = error
            await self._again(call)

    def bidi_stream(
        self, method: MethodSpec[_Req, _Res], requests: AsyncIterable[_Req], options: CallOptions
    ) -> AsyncIterator[_Res]:
        """Any number there and back; the call starts when the first answer is asked for."""

        def begin(route: Route, call: _Call) -> AsyncIterator[_Res]:
            return route.bidi_stream(method, _Requests(call, requests), call.options)

        return self._answers(method, options, begin)

    async def aclose(self) -> None:
        """Cancel what is open and close all routes; closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        members = [*self._members, *self._leaving]
        self._members, self._leaving, self._sole, self._inside = [], [], None, None
        for member in members:
            member.on_idle = None
        self._wake()
        results = await asyncio.gather(
            *(member.route.aclose() for member in members), *self._closing, return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def resolve(self, entity: EntityId, timeout_s: float | None = None) -> str:
        """The path of an entity: the name of an instance that a route leads to, or what it is in.

        Waits for routes that must connect to know whom they lead to, as a call does.

        Args:
            entity: Whom to find.
            timeout_s: Seconds that it may take.

        Raises:
            UnsentError: No route leads there.
            PlaneError: FAILED_PRECONDITION once the channel is closed.
        """
        self._require_open()
        self._introduce()
        until = monotonic() + (
            self._ready_s if timeout_s is None else min(timeout_s, self._ready_s)
        )
        look_s = _FIRST_LOOK_S
        while (path := path_of(entity, (member.name for member in self._members))) is None:
            left_s = until - monotonic()
            awaited = self.absence is not None and not self._members
            if left_s <= 0 or not (awaited or any(member.arriving for member in self._members)):
                raise UnsentError(f"there is no entity {entity}; {self._present()}")
            await self._wait(min(look_s, left_s))
            self._require_open()
            look_s = min(_LAST_LOOK_S, look_s * 1.5)
        return path

    def _begin(self, method: MethodSpec[Any, Any], options: CallOptions) -> _Call:
        if self._closed:
            self._require_open()
        self._budget.deposit()
        if options and "entity" in options:
            self._introduce()
        return _Call(method, options)

    def _introduce(self) -> None:
        """Let routes that must connect to know whom they lead to do so."""
        for member in self._members:
            member.introduce()

    def _present(self) -> str:
        return "there are: " + (
            ", ".join(member.introduction for member in self._members) or "none"
        )

    async def _answers(
        self,
        method: MethodSpec[Any, _Res],
        options: CallOptions,
        begin: Callable[[Route, _Call], AsyncIterator[_Res]],
    ) -> AsyncIterator[_Res]:
        _refuse_hedging(method, options)
        call = self._begin(method, options)
        while True:
            member = self._pick(call) or await self._ready(call)
            try:
                with call.attempt(member) as attempt:
                    answers = begin(member.route, call)
                    first = True
                    try:
                        async for answer in answers:
                            if first:
                                first, call.committed = False, True
                                attempt.answered()
                            yield answer
                    finally:
                        await _leave(answers)
            except PlaneError as error:
                call.failure = error
            else:
                return
            await self._again(call)

    def _pick(self, call: _Call, *, untried: bool = False) -> Member | None:
        """Who takes the next attempt; ``None`` where nobody can now."""
        members = self._members
        entity = call.options.get("entity")
        if entity is not None:
            members = [member for member in members if means(entity, member.name)]
        elif len(members) == 1 and not untried and members[0].ready:
            return members[0]
        ready = [member for member in members if member.ready]
        if not ready:
            # One that lost its connection says best what is wrong, and may just have it again.
            ready = [
                member
                for member in members
                if member.route.state is ConnectionState.RECONNECTING and member.allowed
            ]
            if not (ready or call.tried) and all(member.failed for member in members):
                ready = [*members]
        if call.tried:
            others = [member for member in ready if member not in call.tried]
            ready = others if others or untried else ready
        if not ready:
            return None
        sticky_key = call.options.get("sticky_key")
        picker = self._picker if sticky_key is None else Sticky(sticky_key)
        return picker.pick(ready)

    async def _ready(self, call: _Call) -> Member:
        """Wait for somebody who can take the next attempt.

        Routes do not tell when they connect, so they are looked at, ever less often.
        """
        until = monotonic() + self._ready_s
        if call.deadline is not None:
            until = min(until, call.deadline)
        look_s = _FIRST_LOOK_S
        while (member := self._pick(call)) is None:
            left_s = until - monotonic()
            if left_s <= 0 or not self._hopeful(call):
                raise call.failure or self._unusable(call)
            await self._wait(min(look_s, left_s))
            self._require_open()
            look_s = min(_LAST_LOOK_S, look_s * 1.5)
        call.shrink()
        return member

    def _hopeful(self, call: _Call) -> bool:
        """Whether waiting may help."""
        entity = call.options.get("entity")
        if any(
            member.allowed and member.route.state is ConnectionState.CONNECTING
            for member in self._members
            if entity is None or member.arriving or means(entity, member.name)
        ):
            return True
        if entity is not None:
            return not self._members
        return all(member.route.draining for member in self._members)

    def _unusable(self, call: _Call) -> PlaneError:
        entity = call.options.get("entity")
        members = self._members
        if entity is not None:
            members = [member for member in members if means(entity, member.name)]
        reasons = "; ".join(member.why_not for member in members) or "there is no instance"
        if self.absence is not None and not self._members:
            reasons = self.absence()
        elif entity is not None and not members:
            reasons = f"there is no instance {entity}; {self._present()}"
        message = f"nobody can take {call.method.path}: {reasons}"
        if call.deadline is not None and monotonic() >= call.deadline:
            return UnsentError(f"{message}; its time is over", Code.DEADLINE_EXCEEDED)
        return UnsentError(message)

    async def _again(self, call: _Call) -> None:
        """Wait until the next attempt is due, or raise what the last one failed with."""
        failure = call.failure
        assert failure is not None
        if self._closed or call.committed or not self._repeats(call, failure):
            raise failure
        unsent = isinstance(failure, UnsentError)
        delay_s = 0.0
        if not unsent or self._pick(call, untried=True) is None:
            if len(call.tried) >= self._retries.max_attempts or call.tried[-1].failed:
                raise failure
            delay_s = call.next_delay_s(self._retries)
        now = monotonic()
        if call.deadline is not None and now + delay_s >= call.deadline:
            raise failure
        # What reached no handler cost none of them any work, so it costs no token either.
        if not unsent and not self._budget.withdraw():
            raise failure
        while (left_s := now + delay_s - monotonic()) > 0:
            await self._wait(left_s)
            if self._closed:
                raise failure
        call.shrink()

    def _repeats(self, call: _Call, error: PlaneError) -> bool:
        return self._retries.retries(error, repeatable=call.repeatable)

    async def _hedged(
        self, call: _Call, policy: HedgePolicy, method: MethodSpec[_Req, _Res], request: _Req
    ) -> _Res:
        async def attempt(member: Member) -> _Res:
            if member.on_idle is not None:
                raise UnsentError(f"{member.name} was taken out")
            with Attempt(member):
                return await member.route.unary(method, request, call.options)

        def another() -> Callable[[], Coroutine[Any, Any, _Res]] | None:
            member = self._pick(call, untried=True)
            if (
                member is None
                or len(call.tried) >= self._retries.max_attempts
                or not self._budget.withdraw()
            ):
                return None
            call.tried.append(member)
            call.shrink()
            return partial(attempt, member)

        while True:
            member = self._pick(call) or await self._ready(call)
            call.tried.append(member)
            try:
                return await first_answer(
                    partial(attempt, member), another, policy, partial(self._repeats, call)
                )
            except PlaneError as error:
                call.failure = error
            await self._again(call)

    async def _wait(self, seconds: float) -> None:
        """Wait until the set of routes changes, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _close_idle(self, member: Member) -> None:
        self._leaving.remove(member)
        task = asyncio.create_task(member.route.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _require_open(self) -> None:
        if self._closed:
            raise PlaneError(Code.FAILED_PRECONDITION, "the channel is closed")


class _Call:
    """One call, across its attempts."""

    __slots__ = ("_backoff", "committed", "deadline", "failure", "method", "options", "tried")

    def __init__(self, method: MethodSpec[Any, Any], options: CallOptions) -> None:
        timeout_s = options.get("timeout_s")
        if timeout_s is not None or serving.get() is not None:
            timeout_s = outgoing_timeout_s(timeout_s)
        self.method = method
        self.options = options
        self.deadline = None if timeout_s is None else monotonic() + timeout_s
        self.tried: list[Member] = []
        self.committed = False
        self.failure: PlaneError | None = None
        self._backoff: Backoff | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it may be made again where a handler may have seen it."""
        return not self.method.kind.client_streaming and may_repeat(self.method, self.options)

    def attempt(self, member: Member) -> Attempt:
        """Begin the next attempt."""
        self.tried.append(member)
        return Attempt(member)

    def shrink(self) -> None:
        """Leave the next attempt what is left of the time."""
        if self.deadline is not None:
            options = self.options.copy()
            options["timeout_s"] = max(0.0, self.deadline - monotonic())
            self.options = options

    def next_delay_s(self, policy: RetryPolicy) -> float:
        """The wait before the next attempt."""
        if self._backoff is None:
            self._backoff = policy.backoff()
        return self._backoff.next_s()


class _Requests(Generic[_Req]):
    """The requests of a stream; once one was asked for, the call cannot be made again."""

    def __init__(self, call: _Call, requests: AsyncIterable[_Req]) -> None:
        self._call = call
        self._requests = requests

    def __aiter__(self) -> AsyncIterator[_Req]:
        self._iterator = aiter(self._requests)
        return self

    def __anext__(self) -> Any:
        self._call.committed = True
        return self._iterator.__anext__()


def _hedging_of(call: _Call) -> HedgePolicy | None:
    delay_s = call.options.get("hedge_after_s")
    if delay_s is None:
        return None
    if not delay_s >= 0:
        raise PlaneError(Code.INVALID_ARGUMENT, f"hedge_after_s={delay_s:g} is below zero")
    if not call.repeatable:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"hedge_after_s: {call.method.path} may not be made twice; declare its "
            "idempotency_level in the schema, or give the call an idempotency_key",
        )
    return HedgePolicy.after(delay_s)


def _refuse_hedging(method: MethodSpec[Any, Any], options: CallOptions) -> None:
    if options.get("hedge_after_s") is not None:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"hedge_after_s: {method.path} is a stream; only unary calls hedge",
        )


async def _leave(answers: AsyncIterator[Any]) -> None:
    """End a stream now, not when its garbage is collected."""
    aclose = getattr(answers, "aclose", None)
    if aclose is not None:
        await aclose()
