"""Which of several workers takes a request: one interface, and the policies that need nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from protoplane_client import LeastOutstanding, PowerOfTwoChoices, RoundRobin
from protoplane_client.balancing import Picker
from protoplane_components.orchestrator.needs import Need
from protoplane_components.orchestrator.workers import Worker


class Reservation(Protocol):
    """A request that somebody else counts as load of its worker; telling it returns at once."""

    def answered(self) -> None:
        """The first of the answer is there."""
        ...

    def wrote(self, tokens: int) -> None:
        """So many tokens of the answer are there, in all."""
        ...

    def release(self) -> None:
        """The request is over."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A worker that was chosen.

    Attributes:
        worker: The worker.
        reservation: Where it is counted elsewhere too; ``None`` for nowhere.
    """

    worker: Worker
    reservation: Reservation | None = None


class Policy(Protocol):
    """Chooses workers; it is entered before the first choice, and left after the last."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    async def __aenter__(self) -> Self:
        """Open what it needs."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        ...

    async def choose(self, need: Need, ready: Sequence[Worker]) -> Choice:
        """Choose for a request.

        Args:
            need: The request.
            ready: Workers that can take it, of which there is at least one.
        """
        ...


class Picking:
    """A policy that looks at the workers alone.

    Args:
        name: What it is called.
        picker: Chooses; it sees as ``outstanding`` how busy a worker is for its capacity.
    """

    def __init__(self, name: str, picker: Picker) -> None:
        self.name = name
        self._picker = picker

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def choose(self, need: Need, ready: Sequence[Worker]) -> Choice:
        """See `Policy.choose`; it waits for nothing."""
        return Choice(self.pick(ready))

    def pick(self, ready: Sequence[Worker]) -> Worker:
        """Choose at once."""
        return ready[0] if len(ready) == 1 else self._picker.pick(ready)


PICKERS: Mapping[str, type[Picker]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastOutstanding,
    "power-of-two": PowerOfTwoChoices,
}
"""What chooses, by the name of its policy."""


def picking(name: str) -> Picking:
    """The policy of a name that is in `PICKERS`."""
    return Picking(name, PICKERS[name]())
