"""One route among those that a balanced channel has: its breaker, and its calls that are open."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from protoplane_base import PlaneError
from protoplane_client.breaker import Breaker, BreakerPolicy
from protoplane_client.route import ConnectionState, Introducible, Route

# Every call asks for the state, and looking up a member of an Enum costs more than the question.
_CONNECTED, _DISCONNECTED = ConnectionState.CONNECTED, ConnectionState.DISCONNECTED


class Member:
    """A route, as its channel sees it.

    Args:
        route: Where calls go.
        breaking: When it is left alone.

    Attributes:
        open_attempts: Attempts of the channel that are under way on it.
        on_idle: Where it was taken out of the channel: who is told once no attempt is under way.
    """

    __slots__ = ("_introducible", "breaker", "on_idle", "open_attempts", "route")

    def __init__(self, route: Route, breaking: BreakerPolicy) -> None:
        self.route = route
        self.breaker = Breaker(breaking)
        self.open_attempts = 0
        self.on_idle: Callable[[Member], object] | None = None
        self._introducible = route if isinstance(route, Introducible) else None

    def introduce(self) -> None:
        """Let it connect, where it must to know whom it leads to."""
        if self._introducible is not None and not self._introducible.introduced:
            self._introducible.introduce()

    @property
    def arriving(self) -> bool:
        """Whether it may soon tell whom it leads to."""
        return (
            self._introducible is not None
            and not self._introducible.introduced
            and self.route.state is ConnectionState.CONNECTING
        )

    @property
    def introduction(self) -> str:
        """Its name, or why it has none, for a message."""
        if self._introducible is None or self._introducible.introduced:
            return self.name
        return f"{self.name}, which is {self.route.state.value}"

    @property
    def name(self) -> str:
        """The instance that the route leads to."""
        return self.route.name

    @property
    def outstanding(self) -> int:
        """Calls that are open on the route, whoever made them."""
        return self.route.outstanding

    @property
    def allowed(self) -> bool:
        """Whether it may take calls at all, connected or not."""
        route = self.route
        return (
            not route.draining
            and route.state is not ConnectionState.FAILED
            and self.breaker.allows()
        )

    @property
    def ready(self) -> bool:
        """Whether a call may leave at once, or open the connection that it needs."""
        route = self.route
        state = route.state
        return (
            (state is _CONNECTED or state is _DISCONNECTED)
            and not route.draining
            and self.breaker.allows()
        )

    @property
    def failed(self) -> bool:
        """Whether trying it again is no use; it still says why."""
        return self.route.state is ConnectionState.FAILED

    @property
    def why_not(self) -> str:
        """What keeps calls from it, for a message."""
        if self.route.draining:
            return f"{self.name} is draining"
        if not self.breaker.allows():
            wait = f" for {self.breaker.remaining_s:.1f} s more" if self.breaker.remaining_s else ""
            return f"{self.name} is left alone{wait} after {self.breaker.last_error}"
        return f"{self.name} is {self.route.state.value}"

    def begin(self) -> int:
        """Note that an attempt begins; gives the number to tell its end with."""
        self.open_attempts += 1
        return self.breaker.begin()

    def end(self, number: int, error: BaseException | None = None) -> None:
        """Note how an attempt ended."""
        if error is None or isinstance(error, PlaneError):
            self.breaker.ended(number, error)
        else:
            self.breaker.abandoned(number)
        self.open_attempts -= 1
        if self.on_idle is not None and not self.open_attempts:
            self.on_idle(self)

    def leave(self, on_idle: Callable[[Member], object]) -> None:
        """Take it out: tell ``on_idle`` as soon as no attempt is under way."""
        self.on_idle = on_idle
        if not self.open_attempts:
            on_idle(self)


class Attempt:
    """One attempt of a call on a member, from the moment it is made; leaving it tells the breaker.

    Args:
        member: Who takes it.
    """

    __slots__ = ("_member", "_number")

    def __init__(self, member: Member) -> None:
        self._member = member
        self._number = member.begin()

    def answered(self) -> None:
        """Note the first answer of a stream."""
        self._number = self._member.breaker.answered(self._number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._member.end(self._number, error)
