"""What a driver of `Discovery` holds in its engine for the instances that its process registers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from protoplane_runtime.engines.discovery import Instance
from protoplane_runtime.engines.roster import RosterRegistration

_Claim = TypeVar("_Claim")


class Registrations(Generic[_Claim]):
    """The registrations of a process, each with its claim: what the engine needs for it.

    Args:
        let_go: Takes a claim back, which may be taken in part only.
    """

    def __init__(self, let_go: Callable[[RosterRegistration, _Claim], Awaitable[object]]) -> None:
        self._let_go = let_go
        self._claims: dict[RosterRegistration, _Claim] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def items(self) -> Iterable[tuple[RosterRegistration, _Claim]]:
        """Those of now, with their claims."""
        return tuple(self._claims.items())

    @asynccontextmanager
    async def hold(
        self,
        instance: Instance,
        claim: _Claim,
        *,
        take: Callable[[RosterRegistration], Awaitable[object]],
        tell: Callable[[Instance], Awaitable[None]],
    ) -> AsyncGenerator[RosterRegistration, None]:
        """Hold a claim for an instance while the block runs.

        Args:
            instance: The instance.
            claim: Its claim.
            take: Takes the claim. Where it fails or is cancelled, the claim is let go of.
            tell: Tells others what is new about the instance.

        Raises:
            PlaneError: What ``take`` and ``let_go`` raise.
        """
        registration = RosterRegistration(instance, tell)
        self._claims[registration] = claim
        try:
            await take(registration)
            yield registration
        finally:
            await self._end(registration)

    async def close(self) -> None:
        """Let go of all that is held."""
        await asyncio.gather(*(self._end(each) for each in tuple(self._claims)))

    async def _end(self, registration: RosterRegistration) -> None:
        claim = self._claims.pop(registration, None)
        if claim is not None:
            registration.ended = True
            await self._let_go(registration, claim)
