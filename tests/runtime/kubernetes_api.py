"""A Kubernetes API that plays what ``kubernetes_recording`` holds, and says what it was asked.

The recording is what a real one said, see ``tests/kubernetes/record.py``; ``unavailable`` alone is
written by hand, as its API reference has it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kubernetes_asyncio")

from aiohttp import web

RECORDING = Path(__file__).parent / "kubernetes_recording"
WAIT_S = 20.0


def recorded(name: str) -> Any:
    """What a file of the recording holds."""
    return json.loads((RECORDING / f"{name}.json").read_text())


class KubernetesApi:
    """Answers lists and watches of EndpointSlices.

    Attributes:
        tokens: Who asked, each time.
        asked: The path and the query of each request.
        lists: Names of the recordings that answer lists, in turn; the last one stays.
        refusals: Names of `Status`es, each of which refuses a request.
    """

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.lists: deque[str] = deque(["list"])
        self.refusals: deque[str] = deque()
        self.url = ""
        self._watches: list[tuple[web.StreamResponse, asyncio.Event]] = []
        self._changed = asyncio.Event()

    @property
    def watches(self) -> list[dict[str, str]]:
        """The queries of the watches that were asked for."""
        return [query for _, query in self.asked if "watch" in query]

    async def watched(self, times: int) -> None:
        """Wait until so many watches were asked for, and the last one runs."""
        async with asyncio.timeout(WAIT_S):
            while len(self._watches) < times:
                self._changed.clear()
                await self._changed.wait()

    async def say(self, name: str) -> None:
        """Send the events of a recording on the latest watch."""
        for event in recorded(name):
            await self.say_bytes(json.dumps(event).encode() + b"\n")

    async def say_bytes(self, data: bytes) -> None:
        """Send bytes on the latest watch."""
        await self._watches[-1][0].write(data)

    def end_watch(self) -> None:
        """End the latest watch in order, as its timeout does."""
        self._watches[-1][1].set()

    def cut_watch(self) -> None:
        """Drop the connection of the latest watch."""
        transport = self._watches[-1][0]._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        query = dict(request.query)
        self.asked.append((request.path, query))
        self.tokens.append(request.headers.get("authorization", ""))
        if self.refusals:
            said = recorded(self.refusals.popleft())
            return web.json_response(said, status=said["code"])
        if "watch" not in query:
            name = self.lists[0] if len(self.lists) == 1 else self.lists.popleft()
            return web.json_response(recorded(name))
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        ended = asyncio.Event()
        self._watches.append((response, ended))
        self._changed.set()
        await ended.wait()
        return response

    def end(self) -> None:
        """End all watches."""
        for _, ended in self._watches:
            ended.set()


@asynccontextmanager
async def kubernetes_api(tls: ssl.SSLContext | None = None) -> AsyncGenerator[KubernetesApi]:
    """Run one on a free port of this machine."""
    api = KubernetesApi()
    app = web.Application()
    app.router.add_get("/apis/discovery.k8s.io/v1/endpointslices", api.answer)
    app.router.add_get(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", api.answer
    )
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    host, port = runner.addresses[0]
    api.url = f"{'https' if tls else 'http'}://{host}:{port}"
    try:
        yield api
    finally:
        api.end()
        await runner.cleanup()


def kubeconfig(folder: Path, url: str) -> Path:
    """A file that leads to a cluster."""
    file = folder / "kubeconfig.json"
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [
                    {
                        "name": "test",
                        "context": {"cluster": "test", "user": "me", "namespace": "forge"},
                    }
                ],
                "clusters": [{"name": "test", "cluster": {"server": url}}],
                "users": [{"name": "me", "user": {"token": "s3cret"}}],
            }
        )
    )
    return file
