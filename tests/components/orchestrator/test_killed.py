"""SIGKILL for a worker under many streaming chats: nothing hangs, and all are told the truth."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.components.orchestrator.scripted import GREEDY, Fleet, Front, eventually, written
from tests.components.orchestrator.worker_process import EARLY

from protoplane.inference.v1 import (
    Conversation,
    ConversationMessage,
    GenerateRequest,
    LoadModelRequest,
)
from protoplane.orchestrator.v1 import StreamBroken
from protoplane_base import Code, PlaneError
from protoplane_components.orchestrator import OrchestratorSettings

pytestmark = pytest.mark.anyio
PROGRAM = Path(__file__).with_name("worker_process.py")
CHATS = 50


async def start(engine: str, id_: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), engine, id_, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"ready\n"
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process


@pytest.fixture(params=["abc"])
async def processes(
    fleet: Fleet, request: pytest.FixtureRequest
) -> AsyncIterator[dict[str, Process]]:
    """Workers of these ids, each a process."""
    started = await asyncio.gather(*(start(fleet.engine, id_) for id_ in request.param))
    yield dict(zip(request.param, started, strict=True))
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Chat:
    """One streaming request, and what came of it."""

    def __init__(self, front: Front, number: int, *, conversation: bool) -> None:
        self.early = number % 4 < 2
        self.prompt = f"{'early' if self.early else 'late'} {number}"
        self.worker = ""
        self.text = ""
        self.error: PlaneError | None = None
        self._front = front
        self._request = GenerateRequest(model="m", sampling=GREEDY)
        if conversation:
            said = ConversationMessage(role="user", content=self.prompt)
            self._request.conversation = Conversation(messages=[said])
        else:
            self._request.prompt = self.prompt

    async def run(self) -> None:
        try:
            async for answer in self._front.inference.generate(self._request):
                self.worker = answer.model or self.worker
                self.text += answer.text
        except PlaneError as error:
            self.error = error

    @property
    def whole(self) -> bool:
        return self.error is None and self.text == written(self.prompt, 20)


async def killed(front: Front, processes: dict[str, Process], chats: list[Chat]) -> int:
    """Run chats, kill the worker ``a`` under them; gives how many requests it had."""
    workers = front.made.pool.workers
    async with asyncio.TaskGroup() as group:
        for chat in chats:
            group.create_task(chat.run())
        await eventually(
            lambda: (
                sum(worker.in_flight for worker in workers.values()) == CHATS
                and all(len(chat.text) == EARLY for chat in chats if chat.early)
            )
        )
        had = workers["protoplane/inference/a"].in_flight
        processes["a"].kill()
        await processes["a"].wait()
        await eventually(lambda: "protoplane/inference/a" not in workers)
        await front.inference.load_model(LoadModelRequest(model="go"), timeout_s=30)
    return had


async def test_a_worker_is_killed_under_chats(fleet: Fleet, processes: dict[str, Process]) -> None:
    front = await fleet.orchestrator(workers=3)
    chats = [Chat(front, number, conversation=True) for number in range(CHATS)]
    async with asyncio.timeout(120):
        had = await killed(front, processes, chats)
    lost = [chat for chat in chats if chat.early and chat.worker == "a"]
    assert 0 < len(lost) < had
    assert Counter(chat.whole for chat in chats) == {True: CHATS - len(lost), False: len(lost)}
    for chat in lost:
        assert chat.text == written(chat.prompt, EARLY)
        assert chat.error is not None
        assert chat.error.code is Code.UNAVAILABLE
        [told] = chat.error.details
        assert isinstance(told, StreamBroken)
        assert (told.worker, told.tokens_delivered) == ("protoplane/inference/a", EARLY)
        assert told.request_id
    counts = front.made.counts
    assert (counts.broken, counts.retries, counts.resumes) == (len(lost), had - len(lost), 0)
    assert all(worker.in_flight == 0 for worker in front.made.pool.workers.values())
    # Its requests have nowhere to go once the others are killed, too, and do not hang either.
    for process in processes.values():
        if process.returncode is None:
            process.kill()
            await process.wait()
    chat = Chat(front, 0, conversation=True)
    async with asyncio.timeout(60):
        await chat.run()
    assert chat.error is not None
    assert chat.error.code is Code.UNAVAILABLE


@pytest.mark.parametrize("processes", ["ab"], indirect=True)
async def test_texts_go_on_when_their_worker_is_killed(
    fleet: Fleet, processes: dict[str, Process]
) -> None:
    front = await fleet.orchestrator(OrchestratorSettings(resume=True), workers=2)
    chats = [Chat(front, number, conversation=False) for number in range(CHATS)]
    async with asyncio.timeout(120):
        had = await killed(front, processes, chats)
    lost = [chat for chat in chats if chat.early and chat.worker == "a"]
    assert 0 < len(lost) < had
    assert [chat.prompt for chat in chats if not chat.whole] == []
    counts = front.made.counts
    assert (counts.broken, counts.retries, counts.resumes) == (0, had - len(lost), len(lost))
