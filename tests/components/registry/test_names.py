"""How models, versions and databases are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoplane_base import Code, PlaneError
from protoplane_components.registry.addresses import MEMORY, beside, database_url
from protoplane_components.registry.names import parse_reference

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(NAMES, NAMES)
def test_references(model: str, version: str) -> None:
    assert parse_reference(model) == (model, "")
    assert parse_reference(f"{model}:{version}") == (model, version)
    assert parse_reference(f"{model}@{version}") == (model, f"@{version}")


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        model, version = parse_reference(text)
    except PlaneError:
        return
    mark = "" if not version or version.startswith("@") else ":"
    assert f"{model}{mark}{version}" == text


@pytest.mark.parametrize("text", ["", "a:", "a@", "a/b", "a:b:c", ".a", "a:b@c", "ä", "a" * 129])
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(PlaneError) as caught:
        parse_reference(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_databases(tmp_path: Path) -> None:
    file = tmp_path / "r.sqlite"
    for text in (f"sqlite:{file}", f"sqlite://{file}"):
        assert database_url(text).database == str(file)
    assert database_url(MEMORY).database == ":memory:"
    url = database_url("postgresql://me:secret@host/name")
    assert (url.drivername, url.host, url.database) == ("postgresql+asyncpg", "host", "name")


@pytest.mark.parametrize("text", ["", "sqlite:", "mysql://host/name", "postgresql://me@host:x/a"])
def test_what_is_no_database(text: str) -> None:
    with pytest.raises(PlaneError) as caught:
        database_url(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_fault_does_not_tell_the_password() -> None:
    with pytest.raises(PlaneError) as caught:
        database_url("mysql://me:secret@host/name")
    assert "secret" not in str(caught.value)


def test_the_database_beside_an_engine(tmp_path: Path) -> None:
    assert beside("") == beside("memory:") == beside("static:a=b") == MEMORY
    assert beside(f"local:{tmp_path}?x=1") == f"sqlite:{tmp_path / 'registry.sqlite'}"
    assert beside("nats://host").endswith("/protoplane/registry.sqlite")
