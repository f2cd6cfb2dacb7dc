"""Who may call: bearer tokens, the same at every door.

Source: RFC 6750, section 2.1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from protoplane_base import Code, Metadata, PlaneError

if TYPE_CHECKING:
    from protoplane_server.context import CallContext

AUTHORIZATION = "authorization"
"""Metadata, and HTTP header, that carries a token: ``Bearer <token>``."""


class Access(ABC):
    """Tells who has a token; a component may bring its own, see `BringsAccess`."""

    @abstractmethod
    def identity(self, token: str) -> str:
        """Who has a token, never empty.

        It is asked on the event loop for each call over gRPC and HTTP, and once for each link.

        Args:
            token: What the caller sent; empty where that was nothing.

        Raises:
            PlaneError: UNAUTHENTICATED where nobody has it.
        """

    def caller(self, metadata: Metadata) -> str:
        """Who makes a call, by the metadata ``authorization``.

        Raises:
            PlaneError: UNAUTHENTICATED where it holds no token that is known.
        """
        return self.identity(bearer_token(metadata))

    def of_call(self, ctx: CallContext) -> str:
        """Who makes a call; to be overridden by who wants to know more of it than its token.

        Raises:
            PlaneError: As `caller`.
        """
        return self.caller(ctx.metadata)


class TokenAccess(Access):
    """Knows the tokens that open a component.

    Args:
        tokens: The identity that each token proves.

    Raises:
        ValueError: A token or an identity is empty.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        if not all(tokens) or not all(tokens.values()):
            raise ValueError("a token and its identity must not be empty")
        # Looked up by its digest, so that the time it takes tells nothing of the tokens.
        self._identities = {_digest(token): identity for token, identity in tokens.items()}

    def identity(self, token: str) -> str:
        """Who has a token; see `Access`."""
        identity = self._identities.get(_digest(token))
        if identity is None:
            what = "the bearer token is not known here" if token else "a bearer token is needed"
            raise PlaneError(
                Code.UNAUTHENTICATED, f"{what}; send one that this component was started with"
            )
        return identity


def bearer_token(metadata: Metadata) -> str:
    """The token of ``authorization: Bearer …``; empty where there is none."""
    given = metadata.get(AUTHORIZATION, "")
    scheme, _, token = (given if isinstance(given, str) else "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
