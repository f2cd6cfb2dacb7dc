"""Hedging: ask a second instance when the first takes long, and use whichever answers first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from protoplane_base import PlaneError

_T = TypeVar("_T")

Attempt = Callable[[], Coroutine[Any, Any, _T]]
"""Makes one attempt of a call, once."""


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """How long to wait for an answer before one more instance is asked.

    Only unary calls that may be repeated are hedged, each attempt on an instance that the call has
    not tried. Attempts beside the first are paid from the retry budget, and count among the
    attempts of `RetryPolicy`.

    A good delay is the time in which 95 of 100 calls have answered: then hedging adds some 5 % of
    load, and takes most of the slowest calls away.

    Source: gRFC A6, hedging policy; Dean and Barroso, The Tail at Scale (2013).

    Attributes:
        delays_s: Seconds before each further attempt, from the one before it; zero asks at once.
    """

    delays_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(delay_s >= 0 for delay_s in self.delays_s):
            raise ValueError(f"delays_s={self.delays_s}: none may be below zero")

    @classmethod
    def after(cls, delay_s: float, *, extra: int = 1) -> HedgePolicy:
        """Further attempts at even distances.

        Args:
            delay_s: Seconds between them.
            extra: How many at most.
        """
        return cls((delay_s,) * extra)


async def first_answer(
    first: Attempt[_T],
    another: Callable[[], Attempt[_T] | None],
    policy: HedgePolicy,
    retries: Callable[[PlaneError], bool],
) -> _T:
    """Make attempts until one answers; the others are cancelled, and have ended on return.

    An attempt that fails in a way that another may not brings the next one forward. Cancelling
    this cancels all attempts and waits for their end.

    Args:
        first: The first attempt.
        another: Gives one more; ``None`` where there is to be none, and it is not asked again.
        policy: When to ask for another.
        retries: Whether an error may be that of one attempt alone; any other ends it all at once.

    Raises:
        PlaneError: What an attempt failed with for good, or else the last one to fail.
    """
    answers: list[_T] = []
    failure: PlaneError | None = None
    delays = list(reversed(policy.delays_s))
    try:
        async with asyncio.TaskGroup() as group:
            running = {group.create_task(_outcome(first))}
            while running and not answers:
                done, running = await asyncio.wait(
                    running,
                    timeout=delays[-1] if delays else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for outcome in [task.result() for task in done]:
                    if not isinstance(outcome, PlaneError):
                        answers.append(outcome)
                    elif failure is None or retries(failure):
                        failure = outcome
                if answers or (failure is not None and not retries(failure)):
                    break
                if delays:
                    delays.pop()
                    attempt = another()
                    if attempt is None:
                        delays.clear()
                    else:
                        running.add(group.create_task(_outcome(attempt)))
            for task in running:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if answers:
        return answers[0]
    assert failure is not None
    raise failure


async def _outcome(attempt: Attempt[_T]) -> _T | PlaneError:
    try:
        return await attempt()
    except PlaneError as error:
        return error
