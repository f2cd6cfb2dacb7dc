"""The processes of `bench/events.py`: each plays one role, and is asked for what it found.

Orders come as lines of JSON on the standard input, and answers leave as lines on the standard
output. A process ends when its input does, so none outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from protoplane_base import PlaneError

_DEADLINE_S = 120.0
_PROGRAM = Path(__file__).with_name("events.py")


class WorkerError(Exception):
    """A process could not do what it was asked; the message says why."""


class Worker:
    """A process that plays a role until the block ends.

    Args:
        role: Which one.
        given: What the role is given.
    """

    def __init__(self, role: str, **given: object) -> None:
        self._role = role
        self._process = subprocess.Popen(
            [sys.executable, _PROGRAM, "--role", role, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the benchmark, which then ends them.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
        process.stdout.close()

    def ask(self, order: str) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            WorkerError: It cannot be done, or the process has died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            WorkerError: As `ask`.
        """
        assert self._process.stdout is not None
        watchdog = threading.Timer(_DEADLINE_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._died()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()

    def _died(self) -> WorkerError:
        return WorkerError(f"the {self._role} died, and said why on the standard error")


# What runs in the process.


class Desk:
    """Where a role gets its orders and leaves its answers."""

    def __init__(self, orders: asyncio.StreamReader) -> None:
        self._orders = orders

    async def order(self) -> str | None:
        """The next order; ``None`` when there will be none."""
        line = await self._orders.readline()
        return json.loads(line) if line else None

    def tell(self, **answer: object) -> None:
        """Answer."""
        print(json.dumps(answer), flush=True)


Role = Callable[..., Awaitable[None]]
"""A coroutine function that is given a `Desk`, and by name what its `Worker` was given."""


async def play(role: Role, given: str) -> None:
    """The whole process of a role."""
    logging.basicConfig(level=logging.ERROR)
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    desk = Desk(orders)
    try:
        await role(desk, **json.loads(given))
    except PlaneError as error:
        desk.tell(error=str(error))
