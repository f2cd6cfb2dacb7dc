"""Whom the gateway knows: the same at every door."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.callers import INPROC, Caller
from protoplane_components.gateway.keys import KeyRing
from protoplane_server.access import Access, bearer_token

if TYPE_CHECKING:
    from protoplane_components.gateway.web_tokens import WebTokens
    from protoplane_server import CallContext

_OWN = Caller(INPROC, requests="", tokens="", concurrent=0, max_priority=2**31 - 1)
"""Callers of the gateway's own process have no limits."""


class GatewayAccess(Access):
    """Lets those in who have a key, or a JWT.

    Args:
        keys: The keys.
        tokens: Verifies JWTs; ``None`` takes none.
        refused: Told why somebody was not let in, and of the call, where it was one.
    """

    def __init__(
        self,
        keys: KeyRing,
        tokens: WebTokens | None,
        refused: Callable[[PlaneError, CallContext | None], None],
    ) -> None:
        self.keys = keys
        self._tokens = tokens
        self._refused = refused

    def identity(self, token: str) -> str:
        """Who has a key or a JWT; see `Access`."""
        return self._let_in(token, None)

    def of_call(self, ctx: CallContext) -> str:
        """Who makes a call; see `Access`."""
        return self._let_in(bearer_token(ctx.metadata), ctx)

    def _let_in(self, token: str, ctx: CallContext | None) -> str:
        try:
            caller = self._known(token)
            caller.check_time()
        except PlaneError as error:
            self._refused(error, ctx)
            raise
        return caller.identity

    def caller_of(self, identity: str) -> Caller:
        """Who was let in under a name; a link stays open for longer than a key may be good.

        Raises:
            PlaneError: UNAUTHENTICATED where the key is gone or has expired.
        """
        if identity == INPROC:
            return _OWN
        caller = self.keys.named(identity)
        if caller is None and self._tokens is not None:
            caller = self._tokens.known(identity)
        if caller is None:
            raise PlaneError(
                Code.UNAUTHENTICATED, f"the key of {identity!r} was taken back; get a new one"
            )
        caller.check_time()
        return caller

    def _known(self, token: str) -> Caller:
        if not token:
            raise PlaneError(
                Code.UNAUTHENTICATED,
                "an API key is needed; send it as the header 'authorization: Bearer …'",
            )
        caller = self.keys.with_key(token)
        if caller is not None:
            return caller
        if self._tokens is not None and token.count(".") == 2:
            return self._tokens.with_token(token)
        raise PlaneError(
            Code.UNAUTHENTICATED, "the API key is not known here; ask who runs this gateway for one"
        )
