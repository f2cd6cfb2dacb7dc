"""Chats at the gateway of a real stack whose worker dies, or whose callers leave."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, AsyncOpenAI
from tests.components.orchestrator.scripted import written
from tests.components.orchestrator.worker_process import EARLY
from tests.components.stack.stacks import LIMIT_S, Started, role, stack

pytestmark = pytest.mark.anyio
CHATS = 50
LETTERS = 20
WORKERS = ("worker-1", "worker-2", "worker-3")
ROLES = (
    "gateway=protoplane_components.gateway:Gateway",
    "orchestrator=protoplane_components.orchestrator:orchestrator",
    *(f"{name}=tests.components.orchestrator.worker_process:held" for name in WORKERS),
)


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(LIMIT_S):
        while not await so():  # noqa: ASYNC110  # other processes tell
            await asyncio.sleep(0.02)


class Front:
    """A stack whose workers write what the tests want, and its ways in."""

    def __init__(self, started: Started, http: httpx.AsyncClient) -> None:
        self.started = started
        self.http = http
        self.url = started.ready().http
        self.openai = AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=2 * LIMIT_S
        )

    @property
    def inside(self) -> str:
        """Where the orchestrator is."""
        return role(self.started.ready(), "orchestrator").http

    async def workers(self) -> dict[str, Any]:
        """What the orchestrator says of its workers."""
        answer = await self.http.get(f"{self.inside}/orchestrator/v1/workers")
        said: dict[str, Any] = answer.json()
        return said

    async def in_flight(self) -> int:
        """Requests that the workers have, and that wait for one."""
        said = await self.workers()
        queued = int(said.get("queued", 0))
        return queued + sum(int(each.get("inFlight", 0)) for each in said.get("workers", ()))

    async def open_at_the_gateway(self) -> int:
        """Requests that the gateway answers."""
        text = (await self.http.get(f"{self.url}/metrics")).text
        name = "protoplane_gateway_open_requests"
        assert f"# TYPE {name} gauge" in text
        # One for each key that has some.
        lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        return int(sum(float(line.split()[-1]) for line in lines))

    async def nothing_is_open(self) -> bool:
        """Whether nobody works any more."""
        return await self.in_flight() == 0 and await self.open_at_the_gateway() == 0

    async def go(self) -> None:
        """Let the workers that there are write to the end."""
        answer = await self.http.post(f"{self.inside}/inference/v1/models/go:load", json={})
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    with stack(tmp_path, *ROLES) as started:
        async with httpx.AsyncClient(timeout=LIMIT_S) as http:
            opened = Front(started, http)

            async def all_there() -> bool:
                return len((await opened.workers()).get("workers", ())) == len(WORKERS)

            async with opened.openai:
                await until(all_there)
                yield opened


class Chat:
    """One streaming chat, and what came of it."""

    def __init__(self, front: Front, number: int) -> None:
        self.early = number % 4 < 2
        self.prompt = f"{'early' if self.early else 'late'} {number}"
        self.text = ""
        self.worker = 0
        self.error: APIError | None = None
        self._front = front

    async def run(self) -> None:
        """Chat to the end."""
        try:
            stream = await self._front.openai.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": self.prompt}],
                stream=True,
                temperature=0,
                max_tokens=LETTERS,
            )
            async for chunk in stream:
                self.worker = int(chunk.model)
                self.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        except APIError as error:
            self.error = error

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.error is None and self.text == written(self.prompt, LETTERS)


async def test_a_worker_is_killed_under_chats(front: Front) -> None:
    chats = [Chat(front, number) for number in range(CHATS)]

    async def all_begun() -> bool:
        early = all(len(chat.text) == EARLY for chat in chats if chat.early)
        return early and await front.in_flight() == CHATS

    async with asyncio.timeout(4 * LIMIT_S), asyncio.TaskGroup() as group:
        for chat in chats:
            group.create_task(chat.run())
        await until(all_begun)
        victim = role(front.started.ready(), "worker-2")
        assert victim.pid is not None
        named = {each["name"]: each for each in (await front.workers())["workers"]}
        had = int(named[victim.instance]["inFlight"])
        os.kill(victim.pid, signal.SIGKILL)
        await asyncio.to_thread(
            front.started.until, lambda record: role(record, "worker-2").restarts == 1
        )
        again = await asyncio.to_thread(front.started.ready)
        instance = role(again, "worker-2").instance

        async def is_back() -> bool:
            there = {each["name"] for each in (await front.workers())["workers"]}
            return instance in there and victim.instance not in there

        await until(is_back)
        await front.go()

    lost = [chat for chat in chats if chat.early and chat.worker == victim.pid]
    assert 0 < len(lost) < had
    assert Counter(chat.whole for chat in chats) == {True: CHATS - len(lost), False: len(lost)}
    for chat in lost:
        assert chat.text == written(chat.prompt, EARLY)
        assert chat.error is not None
        assert (chat.error.code, chat.error.type) == ("unavailable", "server_error")
        assert f"the worker {victim.instance} was lost after" in chat.error.message
    assert victim.pid not in {chat.worker for chat in chats if not chat.early}
    counts = (await front.workers())["counts"]
    assert (int(counts["broken"]), int(counts["retries"])) == (len(lost), had - len(lost))
    await until(front.nothing_is_open)


async def test_callers_who_leave_leave_nothing_behind(front: Front) -> None:
    count = 250
    chats = [Chat(front, number) for number in range(count)]
    tasks = [asyncio.create_task(chat.run()) for chat in chats]

    async def all_there() -> bool:
        return await front.in_flight() == count

    try:
        # More than the workers take at a time: some wait.
        await until(all_there)
        assert int((await front.workers())["queued"]) == count - 3 * 60
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await until(front.nothing_is_open)
    # Nobody is left in the way of who comes now.
    await front.go()
    chat = Chat(front, 0)
    await chat.run()
    assert chat.whole, chat.error
