"""Files of keys, and the settings."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.gateway.callers import Caller
from protoplane_components.gateway.keys import KeyRing, new_key, plain_keys, read_keys
from protoplane_components.gateway.settings import GatewaySettings

HASH = "0" * 64


def test_a_file() -> None:
    key, digest = new_key()
    text = f"""
    [[keys]]
    name = "alice"
    sha256 = "{digest}"
    expires = 2027-01-01T00:00:00Z
    models = ["llama-*"]
    requests = "60/minute"
    tokens = "1000 per 2 hours"
    concurrent = 4
    max_priority = 10

    [[keys]]
    name = "bob"
    sha256 = "{HASH}"
    expires = 2027-01-01
    """
    ring = KeyRing(read_keys(text, "keys.toml"))
    assert len(ring) == 2
    assert ring.with_key(key) == Caller(
        "alice", ("llama-*",), "60/minute", "1000 per 2 hours", 4, 10, 1798761600.0
    )
    assert ring.named("alice") is ring.with_key(key)
    bob = ring.named("bob")
    assert bob is not None
    assert bob.expires_at == 1798761600.0
    for wrong in ("", key[:-1], HASH, digest):
        assert ring.with_key(wrong) is None


def test_new_keys_are_long_and_never_the_same() -> None:
    keys = {new_key()[0] for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 40
    key, digest = new_key()
    assert sha256(key.encode()).hexdigest() == digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys", "no TOML"),
        ("[[keys]]\nname = 'a'", "sha256"),
        (f"[[keys]]\nname = ''\nsha256 = '{HASH}'", "keys.0.name"),
        ("[[keys]]\nname = 'a'\nsha256 = 'abc'", "keys.0.sha256"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{HASH}'\nkey = 'b'", "keys.0.key"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{HASH}'\nrequests = 'many'", "'many' is no limit"),
        (f"[[keys]]\nname = 'inproc'\nsha256 = '{HASH}'", "no name for a key"),
        (f"[[keys]]\nname = 'jwt:a'\nsha256 = '{HASH}'", "keys.0.name"),
        (f"[[keys]]\nname = 'a'\nsha256 = '{HASH}'\n" * 2, "twice"),
    ],
)
def test_files_that_are_wrong(text: str, says: str) -> None:
    with pytest.raises(PlaneError, match=says) as caught:
        KeyRing(read_keys(text, "keys.toml"))
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_keys(text, "keys.toml")
    except PlaneError as error:
        assert error.code is Code.INVALID_ARGUMENT  # noqa: PT017  # mostly it is refused


def test_keys_in_the_open_must_be_long() -> None:
    with pytest.raises(PlaneError, match="'bob' has 5 characters") as caught:
        plain_keys({"bob": "short"})
    assert "short" not in caught.value.message


def test_settings_of_the_environment(tmp_path: Path) -> None:
    settings = GatewaySettings.from_environment(
        {
            "PROTOPLANE_GATEWAY_UPSTREAM": "protoplane/inference",
            "PROTOPLANE_GATEWAY_API_KEYS": "alice=sk-a=b, bob=sk-c",
            "PROTOPLANE_GATEWAY_KEY_FILE": str(tmp_path),
            "PROTOPLANE_GATEWAY_JWKS_FILE": str(tmp_path),
            "PROTOPLANE_GATEWAY_JWT_ISSUER": "https://issuer",
            "PROTOPLANE_GATEWAY_JWT_AUDIENCE": "gateway",
            "PROTOPLANE_GATEWAY_JWT_ALGORITHMS": "RS256, EdDSA",
            "PROTOPLANE_GATEWAY_TIMEOUT_S": "2.5",
            "PROTOPLANE_GATEWAY_MAX_CONCURRENT": "7",
            "PROTOPLANE_GATEWAY_AUDIT": "",
            "PROTOPLANE_ENGINE": "memory:",
        }
    )
    assert settings == GatewaySettings(
        upstream="protoplane/inference",
        api_keys={"alice": "sk-a=b", "bob": "sk-c"},
        key_file=tmp_path,
        jwks_file=tmp_path,
        jwt_issuer="https://issuer",
        jwt_audience="gateway",
        jwt_algorithms=("RS256", "EdDSA"),
        timeout_s=2.5,
        max_concurrent=7,
    )
    assert "sk-" not in repr(settings)
    assert GatewaySettings.from_environment({}) == GatewaySettings()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("TIMEOUT_S", "soon", "PROTOPLANE_GATEWAY_TIMEOUT_S"),
        ("TIMEOUT_S", "0", "greater than 0"),
        ("MAX_CONCURRENT", "-1", "greater than or equal to 0"),
        ("API_KEYS", "sk-secret", "name=key"),
        ("JWT_ALGORITHMS", "HS256", "RS256"),
        ("JWT_ALGORITHMS", "none", "RS256"),
        ("JWKS_FILE", "keys.json", "jwt_issuer"),
        ("JWT_ISSUER", "https://issuer", "JWKS_FILE"),
        ("TIMEOUT", "1", "there are"),
    ],
)
def test_settings_that_are_wrong(name: str, value: str, says: str) -> None:
    with pytest.raises(PlaneError, match=says) as caught:
        GatewaySettings.from_environment({f"PROTOPLANE_GATEWAY_{name}": value})
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "secret" not in caught.value.message
