"""The door as a whole: pages, and its end."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from tests.server.http.board import NAME, running

from protoplane_server.http.documents import load_document

pytestmark = pytest.mark.anyio


async def test_health_readiness_and_metrics() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        assert (await http.get("/healthz")).text == "ok\n"
        assert (await http.get("/readyz")).status_code == 200
        run.ready[0] = False
        assert (await http.get("/readyz")).status_code == 503
        run.ready[0] = True
        await http.post(f"/{NAME}/Say", json={})
        metrics = await http.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert f'method="/{NAME}/Say"' in metrics.text
        assert (await http.head("/healthz")).status_code == 200
        assert (await http.post("/healthz")).status_code == 405
        await run.dispatcher.drain(0)
        assert (await http.get("/readyz")).text == "draining\n"
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.post(f"/{NAME}/Say", json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_documents_that_are_missing_are_said_to_be() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        for name in ("openapi.json", "asyncapi.json"):
            answer = await http.get(f"/{name}")
            assert answer.status_code == 404
            assert name in answer.text


async def test_documents_are_merged(monkeypatch: Any, tmp_path: Any) -> None:
    from protoplane_base import ServiceSpec

    monkeypatch.syspath_prepend(str(tmp_path))
    services: list[ServiceSpec] = []
    for name in ("first_pkg", "second_pkg"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        document: dict[str, Any] = {
            "openapi": "3.1.0", "paths": {f"/{name}": {}}, "tags": [{"name": name}],
            "components": {"schemas": {"both": {}, name: {}}},
        }  # fmt: skip
        (tmp_path / name / "openapi.json").write_text(json.dumps(document))
        services.append(ServiceSpec(name, "", "", {}, package=name))
    merged = load_document(services, "openapi.json")
    assert merged is not None
    assert sorted(merged["paths"]) == ["/first_pkg", "/second_pkg"]
    assert sorted(merged["components"]["schemas"]) == ["both", "first_pkg", "second_pkg"]
    assert len(merged["tags"]) == 2
    assert load_document(services, "none.json") is None


async def test_docs_need_nothing_from_elsewhere() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        page = await http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        for text in ("http://", "https://", "<link", "@import"):
            assert text not in page.text.lower().replace("http://www.w3.org", "")
        assert "prefers-color-scheme" in page.text
        assert "openapi.json" in page.text


async def test_stop_ends_event_streams_with_a_retry() -> None:
    async with running() as run, httpx.AsyncClient(base_url=run.url) as http:
        async with http.stream("GET", "/events/**") as response:
            lines = response.aiter_lines()
            for _ in range(3):
                await anext(lines)
            begun = time.monotonic()
            run.door.stop()
            assert [line async for line in lines] == ["retry: 1000", ""]
        await run.task
        assert time.monotonic() - begun < 1
        await asyncio.sleep(0)
        assert not [task for task in asyncio.all_tasks() if "HttpDoor" in repr(task)]


async def test_stop_lets_calls_finish_within_the_grace() -> None:
    async with running(grace_s=5) as run, httpx.AsyncClient(base_url=run.url) as http:
        body = {"prompt": "wait"}
        call = asyncio.create_task(
            http.post(f"/{NAME}/Say", json=body, headers={"connect-timeout-ms": "300"})
        )
        await run.board.started.wait()
        run.door.stop()
        assert (await call).json()["code"] == "deadline_exceeded"
        async with asyncio.timeout(30):
            await run.task


async def test_stop_ends_calls_after_the_grace() -> None:
    async with running(grace_s=0.2) as run, httpx.AsyncClient(base_url=run.url) as http:
        unary = asyncio.create_task(http.post(f"/{NAME}/Say", json={"prompt": "wait"}))
        stream = asyncio.create_task(
            http.post(
                f"/{NAME}/Tell", json={"prompt": "a wait"}, headers={"accept": "text/event-stream"}
            )
        )
        await run.until_open(2)
        await asyncio.sleep(0.05)
        run.door.stop()
        async with asyncio.timeout(1.5):
            answer = await unary
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "event: error" in (await stream).text
            assert "retry: 1000" in (await stream).text
            await run.task
        assert run.board.cancelled == 2


async def test_stop_does_not_wait_for_clients_that_do_not_read() -> None:
    async with running(grace_s=0.2) as run:
        _, writer = await run.connect(window_bytes=4096)
        writer.write(b"GET /events/**?after=earliest HTTP/1.1\r\nhost: x\r\n\r\n")
        for number in range(20_000):
            await run.log.publish(f"k/{number}", "x.Y", b"", '{"a":"%s"}' % ("x" * 500))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        run.door.stop()
        await run.task
        assert time.monotonic() - begun < 2
        writer.transport.abort()


async def test_stopping_twice_or_before_it_runs_does_no_harm() -> None:
    async with running() as run:
        run.door.stop()
        run.door.stop()
        await run.task
