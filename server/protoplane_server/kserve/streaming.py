"""Requests that share one stream: worked on at the same time, answered as each gets on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

MAX_OPEN = 64
"""Most requests of one stream that are worked on at a time; the others are not read yet."""

_MAX_ANSWERS = 16
"""Most answers of one stream that wait for its caller; models wait after that."""

_END: Any = object()

Answer = Callable[[Any], AsyncGenerator[Any, None]]
"""Gives the answers to one request."""


class SharedStream:
    """Answers the requests of one stream.

    Requests of one sequence are worked on one after the other, in the order that they came.

    Args:
        requests: What the caller sends.
        answer: What answers one request; what it raises ends the stream.
        sequence: The sequence that a request is part of; empty for none.
    """

    def __init__(
        self, requests: AsyncIterator[Any], answer: Answer, sequence: Callable[[Any], str]
    ) -> None:
        self._requests = requests
        self._answer = answer
        self._sequence = sequence
        self._answers: asyncio.Queue[Any] = asyncio.Queue(_MAX_ANSWERS)
        self._room = asyncio.Semaphore(MAX_OPEN)
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> AsyncGenerator[Any, None]:
        """All answers; closing it, or cancelling who reads it, cancels all that is worked on."""
        reader = asyncio.create_task(self._read())
        try:
            while (answer := await self._answers.get()) is not _END:
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        finally:
            tasks = (reader, *self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                await self._room.acquire()
                self._begin(request)
            if self._tasks:
                await asyncio.wait(self._tasks)
        except Exception as error:  # noqa: BLE001  # it is raised again by who reads the answers
            await self._answers.put(error)
        else:
            await self._answers.put(_END)

    def _begin(self, request: Any) -> None:
        sequence = self._sequence(request)
        before = self._last.get(sequence) if sequence else None
        task = asyncio.create_task(self._serve(request, before))
        self._tasks.add(task)
        if sequence:
            self._last[sequence] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if self._last.get(sequence) is task:
                del self._last[sequence]
            self._room.release()

        task.add_done_callback(ended)

    async def _serve(self, request: Any, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        try:
            async with aclosing(self._answer(request)) as answers:
                async for answer in answers:
                    await self._answers.put(answer)
        except Exception as error:  # noqa: BLE001  # as above
            await self._answers.put(error)
