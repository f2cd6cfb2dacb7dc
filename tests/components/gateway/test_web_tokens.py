"""JWTs: who issued them, for whom, with which key, and until when."""

from __future__ import annotations

import base64
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import get_default_algorithms
from tests.components.gateway.running import ALICE, gateway, until
from tests.components.gateway.talker import Talker

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.callers import name_of
from protoplane_components.gateway.settings import GatewaySettings
from protoplane_components.gateway.web_tokens import WebTokens

pytestmark = pytest.mark.anyio


class Issuer:
    """Somebody who issues tokens."""

    def __init__(self, kid: str, algorithm: str = "ES256") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key: Any = (
            generate_private_key(SECP256R1())
            if algorithm == "ES256"
            else Ed25519PrivateKey.generate()
        )

    def public(self) -> dict[str, Any]:
        """Its public key, as a JWK."""
        made: Any = get_default_algorithms()[self.algorithm]
        document: dict[str, Any] = json.loads(made.to_jwk(self.key.public_key()))
        return {**document, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def token(self, *, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token; a claim that is ``None`` is left out."""
        claims = {
            "sub": "alice",
            "iss": "https://issuer",
            "aud": "gateway",
            "exp": time.time() + 600,
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            claims, self.key, self.algorithm, headers={"kid": self.kid, **(headers or {})}
        )


def _part(document: dict[str, Any]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set(*issuers: Issuer) -> str:
    return json.dumps({"keys": [issuer.public() for issuer in issuers]})


def settings(folder: Path, **changes: Any) -> GatewaySettings:
    given: dict[str, Any] = {
        "jwks_file": folder / "jwks.json",
        "jwt_issuer": "https://issuer",
        "jwt_audience": "gateway",
    }
    return GatewaySettings(**{**given, **changes})


@pytest.fixture
def issuer() -> Issuer:
    return Issuer("one")


@pytest.fixture
def tokens(issuer: Issuer, tmp_path: Path) -> WebTokens:
    tokens = WebTokens(settings(tmp_path))
    tokens.use(key_set(issuer, Issuer("ed", "EdDSA")))
    return tokens


def test_a_good_token(tokens: WebTokens, issuer: Issuer) -> None:
    token = issuer.token(models=["parrot"])
    caller = tokens.with_token(token)
    assert (caller.name, caller.models) == ("jwt:alice", ("parrot",))
    assert caller.expires_at is not None
    assert tokens.with_token(token) is caller
    assert tokens.known(caller.identity) is caller


def test_tokens_of_one_name_are_told_apart(tokens: WebTokens, issuer: Issuer) -> None:
    wide = tokens.with_token(issuer.token(exp=time.time() + 6000))
    narrow = tokens.with_token(issuer.token(models=["parrot"]))
    assert wide.name == narrow.name
    assert tokens.known(narrow.identity) == narrow
    assert tokens.known(wide.identity) == wide
    later = tokens.with_token(issuer.token(exp=time.time() + 60))
    assert later.identity == wide.identity
    assert tokens.known(later.identity) == wide


def test_a_subject_cannot_look_like_a_grade(tokens: WebTokens, issuer: Issuer) -> None:
    narrow = tokens.with_token(issuer.token(models=["parrot"]))
    forged = tokens.with_token(issuer.token(sub=f"{narrow.grade}#jwt:alice"))
    reversed_ = tokens.with_token(issuer.token(sub=f"alice#{narrow.grade}"))
    assert len({narrow.identity, forged.identity, reversed_.identity}) == 3
    for caller in (narrow, forged, reversed_):
        assert tokens.known(caller.identity) == caller
        assert name_of(caller.identity) == caller.name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "exp"),
        ({"nbf": 9999999999}, "not yet valid"),
        ({"iss": "https://other"}, "[Ii]ssuer"),
        ({"iss": None}, "iss"),
        ({"aud": "other"}, "[Aa]udience"),
        ({"aud": None}, "aud"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "subject"),
        ({"sub": "x" * 201}, "subject"),
        ({"models": "parrot"}, "models"),
        ({"headers": {"kid": "two"}}, "'two' is not among those"),
    ],
)
def test_tokens_that_are_no_good(
    tokens: WebTokens, issuer: Issuer, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(PlaneError, match=says) as caught:
        tokens.with_token(issuer.token(**changes))
    assert caught.value.code is Code.UNAUTHENTICATED


def test_tokens_that_were_forged(tokens: WebTokens, issuer: Issuer) -> None:
    head, body, signature = issuer.token().split(".")
    other = issuer.token(sub="root").split(".")[1]
    public = json.dumps(issuer.public())
    unsigned = jwt.encode({"sub": "alice", "exp": 9e9}, "", "none", headers={"kid": "one"})
    start = ".".join((_part({"alg": "HS256", "kid": "one"}), body))
    mac = hmac.digest(public.encode(), start.encode(), "sha256")
    confused = f"{start}.{_base64(mac)}"
    forged = Issuer("one").token()
    for token in (
        f"{head}.{other}.{signature}",
        f"{head}.{body}.",
        unsigned,
        confused,
        forged,
        "a.b.c",
        "..",
        "",
    ):
        with pytest.raises(PlaneError) as caught:
            tokens.with_token(token)
        assert caught.value.code is Code.UNAUTHENTICATED


def test_algorithms_that_are_not_allowed(tmp_path: Path) -> None:
    issuer = Issuer("ed", "EdDSA")
    tokens = WebTokens(settings(tmp_path, jwt_algorithms=("ES256",)))
    tokens.use(key_set(issuer))
    with pytest.raises(PlaneError, match="alg"):
        tokens.with_token(issuer.token())


def test_the_clock_of_the_issuer_may_be_off(tmp_path: Path, issuer: Issuer) -> None:
    late = issuer.token(exp=time.time() - 60)
    for leeway_s, good in ((0.0, False), (3600.0, True)):
        tokens = WebTokens(settings(tmp_path, jwt_leeway_s=leeway_s))
        tokens.use(key_set(issuer))
        if good:
            assert tokens.with_token(late).name == "jwt:alice"
        else:
            with pytest.raises(PlaneError, match="expired"):
                tokens.with_token(late)


def test_keys_are_changed(tokens: WebTokens, issuer: Issuer) -> None:
    token = issuer.token()
    tokens.with_token(token)
    tokens.use(key_set(issuer, Issuer("two")))
    tokens.with_token(token)
    tokens.use(key_set(Issuer("two")))
    with pytest.raises(PlaneError, match="'one'"):
        tokens.with_token(token)


@pytest.mark.parametrize("text", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "cat"}]}'])
def test_what_is_no_key_set(tokens: WebTokens, issuer: Issuer, text: str) -> None:
    with pytest.raises(PlaneError) as caught:
        tokens.use(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    tokens.with_token(issuer.token())


def test_keys_need_names(tokens: WebTokens, issuer: Issuer) -> None:
    document = issuer.public()
    del document["kid"]
    with pytest.raises(PlaneError, match="kid"):
        tokens.use(json.dumps({"keys": [document]}))


async def test_a_gateway_takes_them_beside_keys(
    talker: Talker, issuer: Issuer, tmp_path: Path
) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(key_set(issuer))
    given: dict[str, Any] = {
        "jwks_file": file,
        "jwt_issuer": "https://issuer",
        "jwt_audience": "gateway",
        "api_keys": {"alice": ALICE},
        "requests": "1000/hour",
    }
    async with gateway(talker, **given) as running:
        token = issuer.token(models=["vectors"])
        async with running.http(ALICE) as http:
            assert (await http.get("/whoami")).json()["name"] == "alice"
        async with running.http(token) as http:
            who = (await http.get("/whoami")).json()
            assert (who["name"], who["models"]) == ("jwt:alice", ["vectors"])
            models = (await http.get("/v1/models")).json()["data"]
            assert [each["id"] for each in models] == ["vectors"]
            # Another issuer's keys: the file is read again by itself.
            rotated = Issuer("two")
            new = tmp_path / "new.json"
            new.write_text(key_set(rotated))
            new.replace(file)

            async def reread() -> bool:
                return (await http.get("/whoami")).status_code == 401

            await until(reread)
        async with running.http(rotated.token()) as http:
            assert (await http.get("/whoami")).status_code == 200


async def test_a_gateway_without_its_file_does_not_start(talker: Talker, tmp_path: Path) -> None:
    given = {"jwt_issuer": "https://issuer", "jwt_audience": "gateway"}
    with pytest.raises(PlaneError, match="cannot be read: No such file"):
        async with gateway(talker, jwks_file=tmp_path / "jwks.json", **given):
            pass
