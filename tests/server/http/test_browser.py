"""A page's own EventSource, in the headless Chromium of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.interop.tools import chromium_or_skip
from tests.server.http.board import Board

from forge.captioner.v1 import CaptionFinished
from protoplane_runtime.engines.memory import MemoryLog
from protoplane_server.dispatcher import Dispatcher
from protoplane_server.http import HttpDoor

pytestmark = pytest.mark.anyio
TYPE = "forge.captioner.v1.CaptionFinished"
PAGE = """<!doctype html><script>
const source = new EventSource("http://127.0.0.1:%d/events/forge/**");
const tell = (what) => fetch("http://127.0.0.1:%d/", {method: "POST", mode: "no-cors", body: what});
source.onopen = () => tell('{"open":true}');
source.onmessage = () => tell('{"untyped":true}');
source.addEventListener("gap", (event) => tell('{"gap":true}'));
source.addEventListener("%s", (event) => tell(event.data));
</script>"""


class Collector:
    """Takes what the page tells."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self._changed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        self.told.append(json.loads(await reader.readexactly(size)))
        self._changed.set()
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def until(self, name: str, count: int) -> None:
        """Wait until so many of what was told have a field."""
        async with asyncio.timeout(30):
            while sum(name in each for each in self.told) < count:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture(scope="module")
def program() -> str:
    return chromium_or_skip()


async def test_a_page_survives_a_restart_and_misses_nothing(program: str, tmp_path: Path) -> None:
    log = MemoryLog()
    collector = Collector()
    gathering = await asyncio.start_server(collector.serve, "127.0.0.1", 0)
    port = 0

    async def publish(words: int) -> None:
        event = CaptionFinished(request_id="r", words=words)
        data, text = event.to_bytes(), event.model_dump_json()
        await log.publish("forge/captions/r", TYPE, data, text, durable=True)

    @contextlib.asynccontextmanager
    async def door() -> AsyncGenerator[None, None]:
        nonlocal port
        sock = socket.create_server(("127.0.0.1", port))
        port = sock.getsockname()[1]
        sock.setblocking(False)
        dispatcher = Dispatcher([Board()], events=log)
        door = HttpDoor(dispatcher, health=lambda: True, grace_s=0.2, retry_ms=200)
        task = asyncio.create_task(door.run([sock]))
        try:
            yield
        finally:
            door.stop()
            await task

    page = tmp_path / "page.html"
    chromium: asyncio.subprocess.Process | None = None
    try:
        async with door():
            page.write_text(PAGE % (port, gathering.sockets[0].getsockname()[1], TYPE))
            chromium = await asyncio.create_subprocess_exec(
                program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-web-security",
                "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
                "--remote-debugging-port=0", page.as_uri(),
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            await collector.until("open", 1)
            # Nothing has been published yet, and still nothing may be lost from here on.
        await publish(1)
        await publish(2)
        async with door():
            await collector.until("words", 2)
            await publish(3)
            await collector.until("words", 3)
        await publish(4)
        async with door():
            await collector.until("words", 4)
        assert sorted(str(each.get("words")) for each in collector.told if "words" in each) == [
            "1", "2", "3", "4"
        ]  # fmt: skip
        assert not [each for each in collector.told if "gap" in each or "untyped" in each]
    finally:
        if chromium is not None:
            chromium.kill()
            await chromium.wait()
        gathering.close()
        await gathering.wait_closed()
        await log.close()
