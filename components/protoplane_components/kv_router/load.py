"""How busy workers are, by what was reserved on them.

A reservation lives as long as its lease, which every sign of life renews: where the word that a
request is over gets lost, the load heals by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from protoplane_base import Code, PlaneError
from protoplane_components.kv_router.index import Target


@dataclass(slots=True)
class Reservation:
    """A request that a target is working on.

    Attributes:
        id: Its name.
        target: Who has it.
        prefill_tokens: Tokens of the prompt that are still to compute; 0 once that is done.
        prompt_blocks: Blocks that the prompt takes up.
        output_blocks: Blocks that the answer takes up so far.
        lease_s: How long it outlives its last sign of life, in seconds.
        expires_at: When that is, by the clock of who keeps it.
    """

    id: str
    target: Target
    prefill_tokens: float
    prompt_blocks: int
    output_blocks: int
    lease_s: float
    expires_at: float

    @property
    def decode_blocks(self) -> int:
        """Blocks that it keeps in use."""
        return self.prompt_blocks + self.output_blocks


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a target is."""

    target: Target
    active_requests: int
    prefill_tokens: float
    decode_blocks: int


Row = NDArray[np.float64]
"""A figure for each target."""


class Places(Struct, frozen=True, eq=False, gc=False):
    """Which row is whose. It never changes: other targets have another one.

    Attributes:
        targets: The target of each row.
        rows: The row of each target.
        all: Each row.
    """

    targets: Sequence[Target]
    rows: Mapping[Target, int]
    all: NDArray[np.intp]


class Figures(Struct, frozen=True, eq=False, gc=False):
    """The load of each target at one moment, in arrays that cannot be changed.

    Attributes:
        places: Which row is whose.
        prefill_tokens: Tokens of prompts that each still has to compute.
        decode_blocks: Blocks that each has in use.
        active_requests: Requests that each has.
        work: These three in one array.
        placed: Requests that each ever had.
    """

    places: Places
    prefill_tokens: Row
    decode_blocks: Row
    active_requests: Row
    placed: Row
    work: NDArray[np.float64]


class LoadTable:
    """The load of each target.

    Attributes:
        targets: The target of each row; rows move when one leaves.
    """

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self._rows: dict[Target, int] = {}
        # Prefill tokens, decode blocks, active requests, requests ever placed; a column for each
        # target, and some to spare.
        self._table: NDArray[np.float64] = np.zeros((4, 16))
        # What was told of the figures and of the targets since they last changed.
        self._told: Figures | None = None
        self._told_places: Places | None = None
        self._reservations: dict[str, Reservation] = {}
        self._of_target: dict[Target, set[str]] = {}
        # Ends of leases, some of them renewed since.
        self._ends: list[tuple[float, str]] = []

    # Targets.

    def add(self, target: Target) -> None:
        """Have a target, with no load; one that is there stays as it is."""
        if target in self._rows:
            return
        row = len(self.targets)
        if row == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        self._changing()[:, row] = 0
        self._told_places = None
        self.targets.append(target)
        self._rows[target] = row

    def remove(self, target: Target) -> list[Reservation]:
        """Forget a target with its reservations, and tell which they were."""
        row = self._rows.pop(target, None)
        if row is None:
            return []
        ended = [self._reservations.pop(each) for each in self._of_target.pop(target, ())]
        self._told_places = None
        last = len(self.targets) - 1
        moved = self.targets.pop()
        if row != last:
            self.targets[row] = moved
            self._rows[moved] = row
        table = self._changing()
        table[:, row] = table[:, last]
        return ended

    def row(self, target: Target) -> int | None:
        """The row of a target until one leaves; `None` for one that is not here."""
        return self._rows.get(target)

    @property
    def figures(self) -> Figures:
        """How busy each is now."""
        told = self._told
        if told is None:
            places = self._told_places
            if places is None:
                every = np.arange(len(self.targets))
                places = Places(tuple(self.targets), {**self._rows}, every)
                self._told_places = places
            table = self._table[:, : len(places.targets)]
            table.flags.writeable = False
            told = self._told = Figures(places, table[0], table[1], table[2], table[3], table[:3])
        return told

    def loads(self) -> list[Load]:
        """The load of each target."""
        prefill, decode, active = self._table[:3].tolist()
        return [
            Load(target, int(active[row]), prefill[row], int(decode[row]))
            for row, target in enumerate(self.targets)
        ]

    # Reservations.

    def reserve(self, reservation: Reservation) -> None:
        """Count a request; one of the same name is replaced.

        Raises:
            PlaneError: NOT_FOUND, its target is not here.
        """
        row = self._rows.get(reservation.target)
        if row is None:
            worker, rank = reservation.target
            raise PlaneError(
                Code.NOT_FOUND, f"there is no worker {worker!r} with rank {rank}: register it first"
            )
        self.release(reservation.id)
        self._reservations[reservation.id] = reservation
        self._of_target.setdefault(reservation.target, set()).add(reservation.id)
        table = self._changing()
        table[0, row] += reservation.prefill_tokens
        table[1, row] += reservation.decode_blocks
        table[2, row] += 1
        table[3, row] += 1
        heappush(self._ends, (reservation.expires_at, reservation.id))

    def get(self, id: str) -> Reservation | None:  # noqa: A002  # what it is called everywhere else
        """A reservation by its name."""
        return self._reservations.get(id)

    def __iter__(self) -> Iterator[Reservation]:
        return iter(self._reservations.values())

    def __len__(self) -> int:
        return len(self._reservations)

    def prefill_completed(self, id: str, now: float) -> bool:  # noqa: A002
        """Note that a prompt is computed; tells whether the reservation was there."""
        found = self._reservations.get(id)
        if found is None:
            return False
        self._changing()[0, self._rows[found.target]] -= found.prefill_tokens
        found.prefill_tokens = 0
        self._renew(found, now)
        return True

    def output_blocks(self, id: str, blocks: int, now: float) -> bool:  # noqa: A002
        """Note how many blocks an answer fills; tells whether the reservation was there."""
        found = self._reservations.get(id)
        if found is None:
            return False
        self._changing()[1, self._rows[found.target]] += blocks - found.output_blocks
        found.output_blocks = blocks
        self._renew(found, now)
        return True

    def release(self, id: str) -> Reservation | None:  # noqa: A002
        """End a reservation, and tell what it was; `None` where it is over already."""
        found = self._reservations.pop(id, None)
        if found is None:
            return None
        self._of_target[found.target].discard(id)
        row = self._rows[found.target]
        table = self._changing()
        table[0, row] -= found.prefill_tokens
        table[1, row] -= found.decode_blocks
        table[2, row] -= 1
        return found

    def expire(self, now: float) -> list[Reservation]:
        """End the reservations whose leases are over, and tell which they were."""
        expired: list[Reservation] = []
        while self._ends and self._ends[0][0] <= now:
            _, id = heappop(self._ends)  # noqa: A001
            found = self._reservations.get(id)
            if found is None:
                continue
            if found.expires_at > now:
                heappush(self._ends, (found.expires_at, id))
            else:
                self.release(id)
                expired.append(found)
        return expired

    def next_expiry(self) -> float | None:
        """No lease ends before; `None` where there is none."""
        # Reservations that were released leave their ends behind.
        if len(self._ends) > 2 * len(self._reservations) + 64:
            self._ends = [(each.expires_at, each.id) for each in self]
            heapify(self._ends)
        return self._ends[0][0] if self._ends else None

    def _changing(self) -> NDArray[np.float64]:
        """The table, to be changed; what was told of it stays as it was told."""
        if self._told is not None:
            self._table = self._table.copy()
            self._told = None
        return self._table

    def _renew(self, reservation: Reservation, now: float) -> None:
        # `expire` finds out when it meets the old end.
        reservation.expires_at = now + reservation.lease_s
