"""Who may call the gateway, and what for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatchcase

from protoplane_base import Code, PlaneError

INPROC = "inproc"
"""How the server names callers of its own process."""

JWT = "jwt:"
"""What the names of callers begin with that a JWT proves; the rest is its subject."""

_GRADE = "#"
"""Stands between a grade and a name; a name without a grade may have it only after `JWT`."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may call.

    Attributes:
        name: What the audit log and the metrics call them; empty for anybody.
        models: Patterns of the models that they may use, ``llama-*`` for example; all where empty.
        requests: Most requests, for example ``60/minute``; empty for any number, ``None`` for what
            the gateway allows all.
        tokens: Most tokens, in the same form.
        concurrent: Most requests at a time; 0 for any number, ``None`` for what the gateway allows.
        max_priority: Highest priority that a request of theirs may have.
        expires_at: When they may call no more, in seconds since 1970; ``None`` for never.
        grade: Tells apart tokens of one name that are not good for the same.
    """

    name: str
    models: tuple[str, ...] = ()
    requests: str | None = None
    tokens: str | None = None
    concurrent: int | None = None
    max_priority: int = 0
    expires_at: float | None = None
    grade: str = ""

    @property
    def identity(self) -> str:
        """What the doors know them by."""
        return f"{self.grade}{_GRADE}{self.name}" if self.grade else self.name

    def may_use(self, model: str) -> bool:
        """Whether they may use a model."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)

    def check_model(self, model: str) -> None:
        """Refuse a model that they may not use, in the words for one that is not there.

        Raises:
            PlaneError: NOT_FOUND; INVALID_ARGUMENT where no model is named and not all are theirs.
        """
        if not self.models:
            return
        if not model:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"model is empty, and the key {self.name!r} may not use every model; name one",
            )
        if not self.may_use(model):
            raise PlaneError(
                Code.NOT_FOUND,
                f"the model {model!r} does not exist or you do not have access to it; "
                "list the models to see which you may use",
            )

    def check_time(self) -> None:
        """Refuse who may call no more.

        Raises:
            PlaneError: UNAUTHENTICATED.
        """
        if self.expires_at is not None and time.time() >= self.expires_at:
            raise PlaneError(
                Code.UNAUTHENTICATED, f"the key of {self.name!r} has expired; get a new one"
            )


def name_of(identity: str) -> str:
    """The name of a caller whom the doors know by an identity."""
    if identity.startswith(JWT) or _GRADE not in identity:
        return identity
    return identity.partition(_GRADE)[2]
