"""How a gateway is set up, in a program or by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from protoplane_base import Code, PlaneError

PREFIX = "PROTOPLANE_GATEWAY_"
"""What the environment variables of a gateway begin with; the rest is the attribute's name."""

ASYMMETRIC = frozenset(
    (
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "ES256K", "EdDSA"),
    )
)
"""Algorithms that a JWT may be signed with: those whose verifier cannot sign."""

_Seconds = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """How a gateway is set up.

    Without keys, a key file and JWTs, everybody may call.

    Attributes:
        upstream: The component that answers, or its address: anything with an `InferenceService`.
        upstream_token: Bearer token that opens it; empty for none.
        timeout_s: Longest that a request may take.
        api_keys: Keys as they are, by name; a key file has no need to hold them as they are.
        key_file: TOML file of keys, see `protoplane_components.gateway.keys`. It is read again when
            it changes.
        jwks_file: File of the public keys (a JWK set, RFC 7517) that JWTs are verified with; it is
            read again when it changes. Without it no JWT is taken.
        jwt_issuer: Who must have issued a JWT.
        jwt_audience: Whom it must be meant for.
        jwt_algorithms: What it may be signed with.
        jwt_leeway_s: How far the clock of the issuer may be off, in seconds.
        requests: Most requests of a caller, for example ``60/minute``; empty for any number. A key
            may say otherwise.
        tokens: Most tokens of a caller, read and written, for example ``100000/hour``.
        concurrent: Most requests of a caller at a time; 0 for any number.
        max_concurrent: Most requests of all callers at a time; 0 for any number.
        rate_store: Where the limits are counted: empty for this process, ``redis://host:port/0``
            for several gateways that share them.
        audit: Where the audit log goes: empty for nowhere, ``-`` for the standard output, else a
            file.
        audit_max_bytes: Size at which the file is put aside and a new one begun.
        audit_files: How many that were put aside are kept.
    """

    upstream: str = "protoplane/orchestrator"
    upstream_token: str = field(default="", repr=False)
    timeout_s: _Seconds = 600.0
    api_keys: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    key_file: Path | None = None
    jwks_file: Path | None = None
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    jwt_leeway_s: Annotated[float, Field(ge=0)] = 30.0
    requests: str = ""
    tokens: str = ""
    concurrent: Annotated[int, Field(ge=0)] = 0
    max_concurrent: Annotated[int, Field(ge=0)] = 0
    rate_store: str = ""
    audit: str = ""
    audit_max_bytes: _Count = 50_000_000
    audit_files: _Count = 5

    def __post_init__(self) -> None:
        if self.jwks_file is not None and not (self.jwt_issuer and self.jwt_audience):
            raise _wrong(
                "jwks_file",
                str(self.jwks_file),
                "a JWT also needs jwt_issuer and jwt_audience, or anybody's would do",
            )
        if self.jwks_file is None and (self.jwt_issuer or self.jwt_audience):
            raise _wrong("jwks_file", "", "jwt_issuer and jwt_audience need it to verify JWTs")
        for algorithm in self.jwt_algorithms:
            if algorithm not in ASYMMETRIC:
                known = ", ".join(sorted(ASYMMETRIC))
                raise _wrong("jwt_algorithms", algorithm, f"give one or more of {known}")

    @property
    def is_open(self) -> bool:
        """Whether everybody may call."""
        return not self.api_keys and self.key_file is None and self.jwks_file is None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> GatewaySettings:
        """Read ``PROTOPLANE_GATEWAY_…``; lists have commas, keys are ``name=key``.

        Raises:
            PlaneError: INVALID_ARGUMENT with the variable that is wrong.
        """
        known = {PREFIX + each.name.upper(): each.name for each in fields(cls)}
        given: dict[str, Any] = {}
        for variable, text in environment.items():
            if not variable.startswith(PREFIX):
                continue
            name = known.get(variable)
            if name is None:
                raise PlaneError(
                    Code.INVALID_ARGUMENT,
                    f"{variable} is no setting of the gateway; there are {', '.join(known)}",
                )
            if text.strip():
                given[name] = _read(name, text.strip())
        try:
            return TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            name = str(fault["loc"][0])
            raise _wrong(name, str(fault["input"]), fault["msg"]) from None


def _read(name: str, text: str) -> object:
    if name == "jwt_algorithms":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if name == "api_keys":
        keys: dict[str, str] = {}
        for part in text.split(","):
            key_name, _, key = part.strip().partition("=")
            if not key_name or not key:
                # The value is a secret, so the message does not have it.
                raise _wrong(name, "…", "it has the form name=key,name=key")
            keys[key_name] = key
        return keys
    return text


def _wrong(name: str, value: str, remedy: str) -> PlaneError:
    return PlaneError(
        Code.INVALID_ARGUMENT, f"{name} ({PREFIX}{name.upper()}) is {value!r}: {remedy}"
    )
