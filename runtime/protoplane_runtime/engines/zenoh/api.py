"""What is used of Zenoh, whose own annotations leave much out."""

from __future__ import annotations

from typing import Protocol, Self


class Payload(Protocol):
    """Bytes that Zenoh holds."""

    def to_bytes(self) -> bytes:
        """A copy of them."""
        ...


class Sample(Protocol):
    """A message that Zenoh brings."""

    @property
    def key_expr(self) -> object:
        """Its key."""
        ...

    @property
    def payload(self) -> Payload:
        """What it says."""
        ...

    @property
    def kind(self) -> object:
        """Whether something was put or deleted."""
        ...


class Query(Protocol):
    """A question that Zenoh brings; it is answered in a ``with`` block."""

    @property
    def key_expr(self) -> object:
        """To whom it goes."""
        ...

    @property
    def payload(self) -> Payload | None:
        """What is asked."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def reply(self, key_expr: str, payload: bytes) -> None:
        """Answer."""
        ...


class Reply(Protocol):
    """An answer that Zenoh brings."""

    @property
    def ok(self) -> Sample | None:
        """What it says; ``None`` where it is an error."""
        ...


class Declared(Protocol):
    """What was declared and can be taken back."""

    def undeclare(self) -> None:
        """Take it back."""
        ...


class Liveliness(Protocol):
    """Tokens that are there for as long as who declared them; see `zenoh.Liveliness`."""

    def declare_token(self, key_expr: str) -> Declared:
        """Show a token."""
        ...

    def declare_subscriber(self, key_expr: str, handler: object, *, history: bool) -> Declared:
        """Have tokens brought as they come and go."""
        ...

    def get(self, key_expr: str, handler: object, *, timeout: float) -> None:
        """Have the tokens brought that are there."""
        ...


class Zenoh(Protocol):
    """A session; see `zenoh.Session`."""

    def zid(self) -> object:
        """What tells it from all others."""
        ...

    def put(self, key_expr: str, payload: bytes, *, congestion_control: object) -> None:
        """Publish."""
        ...

    def get(
        self,
        selector: str,
        handler: object,
        *,
        payload: bytes,
        timeout: float,
        target: object,
        consolidation: object,
        congestion_control: object,
    ) -> None:
        """Ask."""
        ...

    def declare_subscriber(
        self, key_expr: str, handler: object, *, allowed_origin: object
    ) -> Declared:
        """Have what is published brought."""
        ...

    def declare_queryable(self, key_expr: str, handler: object) -> Declared:
        """Have what is asked brought."""
        ...

    def liveliness(self) -> Liveliness:
        """Its tokens."""
        ...

    def close(self) -> None:
        """Close it."""
        ...
