"""API keys: a TOML file that says who may call, without saying the keys.

A key is random, so that its SHA-256 is enough to know it by, and tells nothing of it::

    [[keys]]
    name = "alice"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    expires = 2027-01-01T00:00:00Z
    models = ["llama-*"]
    requests = "60/minute"
    tokens = "100000/hour"
    concurrent = 4
    max_priority = 10
"""

from __future__ import annotations

import hmac
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.callers import INPROC, Caller
from protoplane_components.gateway.rates import check_rate

_MIN_KEY_CHARS = 16
"""A key that is shorter could be guessed."""


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@/+-]{0,99}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    expires: datetime | None = None
    models: tuple[str, ...] = ()
    requests: str | None = None
    tokens: str | None = None
    concurrent: Annotated[int, Field(ge=0)] | None = None
    max_priority: int = 0


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[_Key, ...] = ()


class KeyRing:
    """Knows callers by their keys.

    Args:
        callers: Each with the SHA-256 of their key.

    Raises:
        PlaneError: INVALID_ARGUMENT; two have one name or one key, or a limit has no known form.
    """

    def __init__(self, callers: Iterable[tuple[Caller, bytes]]) -> None:
        self._by_digest: dict[bytes, tuple[bytes, Caller]] = {}
        self._by_name: dict[str, Caller] = {}
        for caller, digest in callers:
            if caller.name in self._by_name or digest in self._by_digest:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"the key {caller.name!r} is there twice, or another one is the same",
                )
            if caller.name == INPROC:
                raise PlaneError(
                    Code.INVALID_ARGUMENT, f"{INPROC!r} is no name for a key; give another"
                )
            for rate in (caller.requests, caller.tokens):
                if rate:
                    check_rate(rate)
            self._by_digest[digest] = digest, caller
            self._by_name[caller.name] = caller

    def __len__(self) -> int:
        return len(self._by_name)

    def with_key(self, key: str) -> Caller | None:
        """Whose key it is."""
        digest = sha256(key.encode()).digest()
        # The look-up goes by a digest that nobody can steer; the comparison takes the same time
        # for any.
        known, caller = self._by_digest.get(digest, (b"", None))
        return caller if hmac.compare_digest(known, digest) else None

    def named(self, name: str) -> Caller | None:
        """Who has a name."""
        return self._by_name.get(name)


def read_keys(text: str, place: str) -> list[tuple[Caller, bytes]]:
    """Read a file of keys.

    Args:
        text: What it holds.
        place: Its name, for messages.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong where.
    """
    try:
        file = _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise PlaneError(Code.INVALID_ARGUMENT, f"{place} is no TOML: {error}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise PlaneError(Code.INVALID_ARGUMENT, f"{place}, {where}: {fault['msg']}") from None
    return [(_caller(key), bytes.fromhex(key.sha256)) for key in file.keys]


def plain_keys(keys: Mapping[str, str]) -> list[tuple[Caller, bytes]]:
    """Callers whose keys are given as they are.

    Raises:
        PlaneError: INVALID_ARGUMENT; a key is too short.
    """
    for name, key in keys.items():
        if len(key) < _MIN_KEY_CHARS:
            raise PlaneError(
                Code.INVALID_ARGUMENT,
                f"the key of {name!r} has {len(key)} characters; at least {_MIN_KEY_CHARS} random "
                "ones make it hard to guess",
            )
    return [(Caller(name), sha256(key.encode()).digest()) for name, key in keys.items()]


def new_key() -> tuple[str, str]:
    """A new random key, and its SHA-256 in hexadecimal for the file."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, sha256(key.encode()).hexdigest()


def _caller(key: _Key) -> Caller:
    expires_at = None
    if key.expires is not None:
        moment = key.expires if key.expires.tzinfo else key.expires.replace(tzinfo=UTC)
        expires_at = moment.timestamp()
    return Caller(
        key.name,
        key.models,
        key.requests,
        key.tokens,
        key.concurrent,
        key.max_priority,
        expires_at,
    )
