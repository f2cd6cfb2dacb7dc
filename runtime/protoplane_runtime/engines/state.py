"""What stands behind the state plane: the contract that every engine keeps.

A key is a path such as ``forge/router/plan``, and holds a value of bytes. Every change of a store
gets the next revision, one number that only grows.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.keys import check_key

MAX_VALUE_BYTES = 1_000_000
"""Largest value; what is larger belongs in an object."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that has a value.

    Attributes:
        key: The key.
        value: Its value.
        revision: The change that gave it this value.
        expires_ns: When it goes by itself, in nanoseconds since 1970; ``None`` for never.
    """

    key: str
    value: bytes
    revision: int
    expires_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key that has no value any more.

    Attributes:
        key: The key.
        revision: The change that took it away.
        expired: Whether its time was up, so that nobody had to delete it.
    """

    key: str
    revision: int
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that there is; it replaces whatever was told before.

    Attributes:
        revision: The newest change that is in it.
        entries: What there is, by key.
    """

    revision: int
    entries: Sequence[Entry]


class StateStore(Protocol):
    """Holds values by key; safe from any number of tasks.

    Changes of one store are ordered by their revisions, and each call sees all that returned before
    it began. What a call was acknowledged survives what the engine's storage survives: nothing in
    ``memory:``, a kill and a power cut in ``local:``.

    While the engine is away, calls raise UNAVAILABLE, and watches wait and catch up. Cancelling a
    `put` or `delete` may leave it done.
    """

    async def get(self, key: str) -> Entry | None:
        """The value of a key; ``None`` where it has none.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key, UNAVAILABLE where the engine is away.
        """
        ...

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        expected: int | None = None,
        ttl_s: float | None = None,
    ) -> int:
        """Give a key a value.

        Args:
            key: The key.
            value: Its value, `MAX_VALUE_BYTES` at most.
            expected: Revision that the key must have for this to be done; 0 where it must have no
                value.
            ttl_s: Seconds after which the value goes by itself, unless the key is put anew; without
                it the value stays, also where the one before would have gone.

        Returns:
            The new revision.

        Raises:
            PlaneError: ABORTED where the key has another revision than expected, INVALID_ARGUMENT
                for a bad key or time, RESOURCE_EXHAUSTED for a large value or a full disk,
                UNAVAILABLE where the engine is away.
        """
        ...

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """Take the value of a key away.

        Args:
            key: The key.
            expected: Revision that the key must have for this to be done.

        Returns:
            Whether it had one.

        Raises:
            PlaneError: As `put`.
        """
        ...

    async def list(self, expression: str = "**") -> Sequence[Entry]:
        """All entries that a key expression matches, as of one moment, in the order of the keys.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression, UNAVAILABLE where the engine is
                away.
        """
        ...

    def watch(self, expression: str = "**") -> AsyncGenerator[Snapshot | Entry | Deleted, None]:
        """Follow what a key expression matches: a `Snapshot`, then each key that changes.

        Revisions only grow from one to the next. Of a key that changed several times, a watcher
        that was busy meanwhile sees the newest only; where it fell so far behind that deletions
        are forgotten, it gets a `Snapshot` again. The stream ends when the store is closed;
        leaving it, or cancelling who waits on it, gives back what it holds.

        Raises:
            PlaneError: INVALID_ARGUMENT for a bad key expression.
        """
        ...

    async def close(self) -> None:
        """Do what was accepted, end all watches and give back all resources; twice does no more."""
        ...


def check_put(key: str, value: bytes, expected: int | None, ttl_s: float | None) -> None:
    """Make sure that a `StateStore.put` can be done.

    Raises:
        PlaneError: INVALID_ARGUMENT or RESOURCE_EXHAUSTED; it cannot.
    """
    check_key(key)
    check_expected(expected)
    if len(value) > MAX_VALUE_BYTES:
        raise PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"a value of {len(value)} bytes is too large, {MAX_VALUE_BYTES} are the most; put it "
            "into an object and store where that is",
        )
    if ttl_s is not None and not (math.isfinite(ttl_s) and 0 < ttl_s < 1e9):
        raise PlaneError(
            Code.INVALID_ARGUMENT, f"ttl_s is greater than 0 and less than 1e9, not {ttl_s}"
        )


def check_expected(expected: int | None) -> None:
    """Make sure that a number can be a revision.

    Raises:
        PlaneError: INVALID_ARGUMENT; it cannot.
    """
    if expected is not None and not 0 <= expected < 1 << 63:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{expected} is no revision; they count from 1")


def conflict(key: str, expected: int, found: int) -> PlaneError:
    """The error of who expected another revision."""
    there = f"it has revision {found}" if found else "it has no value"
    wanted = f"revision {expected}" if expected else "no value"
    return PlaneError(
        Code.ABORTED, f"{key} was expected to have {wanted}, and {there}; read it and try again"
    )
