"""Ending a stack from outside, and what one has left that did not end as it should."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum

from protoplane_base import Code, PlaneError
from protoplane_components.stack.identity import KnownProcess, known
from protoplane_components.stack.place import StackPlace
from protoplane_components.stack.records import Phase, StackRecord
from protoplane_runtime.engines.processes import here


class Outcome(StrEnum):
    """What `stop` found and did."""

    STOPPED = "stopped"
    """The stack ended by itself when it was asked to."""
    KILLED = "killed"
    """It did not end in time."""
    CLEARED = "cleared"
    """Its supervisor was gone; what it had left is cleared away."""
    ABSENT = "absent"
    """There was none."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What became of a stack.

    Attributes:
        outcome: What was found and done.
        processes: How many processes ended, without the supervisor.
        took_s: Seconds that it took.
    """

    outcome: Outcome
    processes: int
    took_s: float


def stop(place: StackPlace, within_s: float) -> Stopped:
    """End the stack of a folder; blocks until no process of it is left.

    Signals go to processes that surely are the stack's, never to one that has got the id of
    another.

    Args:
        place: Its state folder.
        within_s: Seconds to end by itself; then what is left is killed.

    Raises:
        PlaneError: FAILED_PRECONDITION where it runs in a container, or on another machine, and so
            cannot be signalled from here; DEADLINE_EXCEEDED where a process cannot even be killed.
    """
    began = time.monotonic()
    owner = place.owner()
    if owner is None:
        return _clear(place, within_s, began)
    if owner.machine != here():
        raise PlaneError(
            Code.FAILED_PRECONDITION,
            f"the stack of {place.folder.parent} runs in another container or on another machine; "
            "end it there",
        )
    with ExitStack() as held:
        supervisor = held.enter_context(known(owner.pid, owner.born))
        if supervisor is None:
            return _clear(place, within_s, began)
        count = len(_processes(place.read_of(owner), held))
        supervisor.send(signal.SIGTERM)
        in_time = supervisor.ended(within_s)
        if not in_time:
            supervisor.send(signal.SIGKILL)
        left = _processes(place.read_of(owner), held)
        killed = _end(left, 0.0 if not in_time else within_s)
    _forget(place)
    outcome = Outcome.STOPPED if in_time and not killed else Outcome.KILLED
    return Stopped(outcome, count, time.monotonic() - began)


def _clear(place: StackPlace, within_s: float, began: float) -> Stopped:
    """End what a supervisor that is gone has left, and forget it."""
    record = place.read()
    if record is None:
        return Stopped(Outcome.ABSENT, 0, time.monotonic() - began)
    with ExitStack() as held:
        left = _processes(record, held) if record.owner.machine == here() else []
        # They see by themselves that the supervisor is gone.
        _end(left, within_s)
    _forget(place)
    over = not left and record.phase in (Phase.ENDED, Phase.FAILED)
    return Stopped(Outcome.ABSENT if over else Outcome.CLEARED, len(left), time.monotonic() - began)


def _processes(record: StackRecord | None, held: ExitStack) -> list[KnownProcess]:
    found: list[KnownProcess] = []
    for each in () if record is None else record.processes:
        if each.pid is not None and each.born:
            process = held.enter_context(known(each.pid, each.born))
            found += [] if process is None else [process]
    return found


def _end(processes: list[KnownProcess], within_s: float) -> int:
    """See processes end, and kill those that do not in time; gives how many these were."""
    until = time.monotonic() + within_s
    late = [each for each in processes if not each.ended(max(0.0, until - time.monotonic()))]
    for each in late:
        each.send(signal.SIGKILL)
    for each in late:
        if not each.ended(_KILL_S):
            raise PlaneError(
                Code.DEADLINE_EXCEEDED, f"process {each.pid} does not end even when it is killed"
            )
    return len(late)


def _forget(place: StackPlace) -> None:
    lock = place.take()
    # Where another stack has come meanwhile, what is there is its own.
    if lock is not None:
        place.clear()
        os.close(lock)


_KILL_S = 5.0
