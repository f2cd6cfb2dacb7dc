"""Consumer groups of the engine ``zenoh:``: there are none, and who asks for one is told.

The members of a group share one place in one log, and here each node has a log of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.groups import Delivery, GroupSettings, GroupStatus
from protoplane_runtime.engines.interface import EventId, Gap, Start


class NoGroups:
    """`ConsumerGroups` that has no groups; it holds nothing."""

    async def consume(
        self, group: str, expressions: Sequence[str], settings: GroupSettings | None = None
    ) -> AsyncGenerator[Sequence[Delivery | Gap], None]:
        """Raise UNIMPLEMENTED; see `ConsumerGroups.consume`."""
        for nothing in await _refuse():
            yield nothing

    async def acknowledge(self, tokens: Sequence[str]) -> None:
        """Raise UNIMPLEMENTED."""
        raise _none()

    async def negative_acknowledge(
        self, tokens: Sequence[str], *, delay_s: float = 0.0, reason: str = ""
    ) -> None:
        """Raise UNIMPLEMENTED."""
        raise _none()

    async def extend(self, tokens: Sequence[str], visibility_s: float) -> None:
        """Raise UNIMPLEMENTED."""
        raise _none()

    async def list(self) -> Sequence[GroupStatus]:
        """No groups."""
        return ()

    async def delete(self, group: str) -> bool:
        """There was none."""
        return False

    async def reset(self, group: str, start: EventId | Start) -> None:
        """Raise UNIMPLEMENTED."""
        raise _none()

    async def close(self) -> None:
        """Do nothing."""


async def _refuse() -> Sequence[Sequence[Delivery | Gap]]:
    raise _none()


def _none() -> PlaneError:
    return PlaneError(
        Code.UNIMPLEMENTED,
        "the engine zenoh: has no consumer groups, for each node has an event log of its own; use "
        "local: on one machine, or nats: in a cluster",
    )
