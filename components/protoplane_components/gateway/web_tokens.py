"""JSON Web Tokens (RFC 7519), verified with the public keys of a JWK set (RFC 7517)."""

from __future__ import annotations

import time
from collections import OrderedDict
from hashlib import sha256
from typing import Any, TypeGuard, cast

from protoplane_base import Code, MissingExtraError, PlaneError
from protoplane_components.gateway.callers import JWT, Caller
from protoplane_components.gateway.settings import GatewaySettings

try:
    import jwt
except ModuleNotFoundError as missing:
    raise MissingExtraError("gateway", "JWTs") from missing

_REMEMBERED = 10_000


class WebTokens:
    """Verifies JWTs; those that were found good are remembered until they expire.

    A token must have ``exp``, ``sub``, the issuer and the audience of the settings, and a ``kid``
    of the key set. A claim ``models`` lists patterns of the models that it is good for.

    Args:
        settings: Issuer, audience, algorithms and leeway.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._keys: dict[str, jwt.PyJWK] = {}
        self._good: OrderedDict[bytes, Caller] = OrderedDict()
        self._by_identity: OrderedDict[str, Caller] = OrderedDict()

    def use(self, text: str) -> None:
        """Take other public keys; tokens that were found good are verified anew.

        Raises:
            PlaneError: INVALID_ARGUMENT; it is no set of public keys, each with a ``kid``.
        """
        place = self._settings.jwks_file
        try:
            keys = jwt.PyJWKSet.from_json(text).keys
        except (jwt.PyJWTError, ValueError) as error:
            raise PlaneError(
                Code.INVALID_ARGUMENT, f"{place} is no JWK set that can be used: {error}"
            ) from None
        if any(key.key_id is None for key in keys):
            raise PlaneError(Code.INVALID_ARGUMENT, f"{place}: a key has no kid; give each one")
        self._keys = {str(key.key_id): key for key in keys if key.key_type != "oct"}
        self._good.clear()

    def with_token(self, token: str) -> Caller:
        """Who has a token.

        Raises:
            PlaneError: UNAUTHENTICATED, and what is wrong with it.
        """
        digest = sha256(token.encode()).digest()
        caller = self._good.get(digest)
        if caller is None or (caller.expires_at or 0) <= time.time():
            caller = self._verified(token)
        _remember(self._good, digest, caller)
        known = self._by_identity.get(caller.identity)
        if known is None or (known.expires_at or 0) < (caller.expires_at or 0):
            known = caller
        _remember(self._by_identity, known.identity, known)
        return caller

    def known(self, identity: str) -> Caller | None:
        """Who was let in as this, by the token of theirs that is good longest."""
        return self._by_identity.get(identity)

    def _verified(self, token: str) -> Caller:
        settings = self._settings
        try:
            kid = jwt.get_unverified_header(token).get("kid", "")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise _refused(f"its key {kid!r:.80} is not among those of the issuer")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[*settings.jwt_algorithms],
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=settings.jwt_leeway_s,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise _refused(str(error)) from None
        subject, models = claims["sub"], claims.get("models", [])
        if not isinstance(subject, str) or not 0 < len(subject) <= 200:
            raise _refused("its subject is not a text of 1 to 200 characters")
        if not _are_texts(models):
            raise _refused("its claim models is not a list of texts")
        return Caller(
            JWT + subject,
            tuple(models),
            expires_at=float(claims["exp"]) + settings.jwt_leeway_s,
            grade=sha256("\0".join(models).encode()).hexdigest()[:16] if models else "",
        )


def _are_texts(claim: object) -> TypeGuard[list[str]]:
    return isinstance(claim, list) and all(
        isinstance(each, str) for each in cast("list[object]", claim)
    )


def _refused(reason: str) -> PlaneError:
    return PlaneError(Code.UNAUTHENTICATED, f"the token is not valid: {reason}; get a new one")


def _remember(known: OrderedDict[Any, Caller], key: object, caller: Caller) -> None:
    known[key] = caller
    known.move_to_end(key)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
