"""The audit log: who asked for what, and not a word of what was said."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from httpx_sse import aconnect_sse
from tests.components.gateway.running import ALICE, gateway, until
from tests.components.gateway.talker import Talker

from protoplane_base import PlaneError
from protoplane_components.gateway.audit import AuditLog, AuditRecord
from protoplane_components.gateway.settings import GatewaySettings

pytestmark = pytest.mark.anyio


def record(number: int) -> AuditRecord:
    return AuditRecord(
        time="2027-01-01T00:00:00.000+00:00",
        key="alice",
        request_id=str(number),
        door="http",
        peer="127.0.0.1:1",
        method="Infer",
        model="parrot",
        status="OK",
    )


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


async def test_what_it_says(talker: Talker, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    async with (
        gateway(talker, api_keys={"alice": ALICE}, audit=str(file)) as running,
        running.http(ALICE, **{"x-request-id": "mine"}) as http,
    ):
        await http.post("/infer", json={"model": "parrot", "text": "a secret word"})
        chat = {"model": "parrot", "messages": [{"role": "user", "content": "secret !fail"}]}
        await http.post("/v1/chat/completions", json=chat)
        await http.post("/v1/chat/completions", json={**chat, "n": 2})
        body = {"model": "parrot", "text": "secret !hang"}
        async with aconnect_sse(http, "POST", "/infer", json=body) as events:
            await anext(events.aiter_sse())
        await talker.until(hanging=0, cancelled=1)
        wrong = {"authorization": "Bearer secret"}
        await http.get("/models", headers=wrong)
        nameless = {**wrong, "x-request-id": ""}
        answer = await http.post("/v1/chat/completions", json=chat, headers=nameless)
        # What is no call has no more than this.
        await http.get("/events/a", headers=wrong)
    text = file.read_text()
    assert "secret" not in text
    assert ALICE not in text
    found = records(file)
    brief = [
        (each["key"], each["door"], each["method"], each["model"], each["status"]) for each in found
    ]
    whole = ("alice", "http", "Infer", "parrot", "OK")
    failed = ("alice", "openai", "Infer", "parrot", "UNAVAILABLE")
    refused = ("alice", "openai", "/v1/chat/completions", "", "INVALID_ARGUMENT")
    left = ("alice", "http", "InferStream", "parrot", "CANCELLED")
    unknown = [
        ("", "http", "ListModels", "", "UNAUTHENTICATED"),
        ("", "openai", "Infer", "", "UNAUTHENTICATED"),
        ("", "", "", "", "UNAUTHENTICATED"),
    ]
    assert brief[:3] == [whole, failed, refused]
    assert sorted(brief[3:]) == sorted([left, *unknown])
    ids = {"mine", answer.headers["x-request-id"], ""}
    assert {each["request_id"] for each in found} == ids
    assert all(each["peer"].startswith("127.0.0.1:") for each in found if each["door"])
    first = found[0]
    assert (first["prompt_tokens"], first["completion_tokens"]) == (3, 3)
    assert first["duration_ms"] > 0
    assert first["peer"].startswith("127.0.0.1:")
    assert datetime.fromisoformat(first["time"]).tzinfo is not None


async def test_a_file_that_is_full_is_put_aside(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    settings = GatewaySettings(audit=str(file), audit_max_bytes=2000, audit_files=2)
    async with AuditLog(settings) as audit:
        for number in range(100):
            audit.add(record(number))
    files = [file, tmp_path / "audit.log.1", tmp_path / "audit.log.2"]
    assert names(tmp_path) == {each.name for each in files}
    assert all(each.stat().st_size <= 2000 for each in files)
    kept = [found["request_id"] for each in reversed(files) for found in records(each)]
    assert kept == [str(number) for number in range(100 - len(kept), 100)]
    assert audit.lost == 0


async def test_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    async with AuditLog(GatewaySettings(audit="-")) as audit:
        audit.add(record(7))
    assert json.loads(capsys.readouterr().out)["request_id"] == "7"


async def test_nowhere() -> None:
    async with AuditLog(GatewaySettings()) as audit:
        assert not audit.on
        audit.add(record(1))


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(PlaneError, match="cannot be opened"):
        async with AuditLog(GatewaySettings(audit=str(tmp_path))):
            pass


async def test_what_cannot_be_written_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    file = folder / "audit.log"
    settings = GatewaySettings(audit=str(file), audit_max_bytes=1)
    async with AuditLog(settings) as audit:
        audit.add(record(0))

        async def written() -> bool:
            return bool(file.stat().st_size)

        await until(written)
        # Rotation fails from now on.
        shutil.rmtree(folder)
        audit.add(record(1))
    assert audit.lost == 1
    assert "could not be written" in caplog.text
