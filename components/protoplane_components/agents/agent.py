"""One agent, as its host has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from protoplane.agents.v1 import AgentSpec, Overflow
from protoplane_base import Code, PlaneError
from protoplane_components.agents.conversation import Conversation
from protoplane_components.agents.output import Piece, read_piece
from protoplane_components.agents.remains import end_remains
from protoplane_components.agents.supervisor import OUTPUTS, STATUS, StatusRecord

RECORD = "agent.json"
"""The file that a host keeps what it knows of an agent in."""

ANNOUNCED = "announced"
"""The file that says that others were told of an agent's end."""

FOLLOWED_BYTES = 65_536
_OVER = ("exited", "lost")
_AGAIN_S = 0.02


class AgentRecord(TypedDict):
    """What a host keeps of an agent, so that a later one finds it.

    ``asked`` and ``spec`` are specs as JSON: as they came, and with the defaults filled in.
    """

    id: str
    created_ns: int
    asked: str
    spec: str


@dataclass(frozen=True, slots=True)
class Followed:
    """A piece of one of the streams.

    Attributes:
        stream: 0 for the standard output, 1 for the standard error.
        piece: The piece.
    """

    stream: int
    piece: Piece


class Agent:
    """One agent: its orders, its status and what it wrote.

    From `attach` to `detach`, or to the agent's end, it owns one task.

    Args:
        folder: Where it is kept.
        record: What is known of it.
        changed: Is told when its state is another.

    Attributes:
        status: How it does; known once it is attached.
    """

    def __init__(
        self,
        folder: Path,
        record: AgentRecord,
        changed: Callable[[Agent], None],
    ) -> None:
        self.folder = folder
        self.id = record["id"]
        self.created_ns = record["created_ns"]
        self.asked = record["asked"]
        self.spec = AgentSpec.model_validate_json(record["spec"])
        self.status = _unknown()
        self._blocks = self.spec.overflow == Overflow.OVERFLOW_BLOCK
        self._told = changed
        self._conversation: Conversation | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status["state"] in _OVER

    async def attach(self) -> None:
        """Begin to follow it; where its supervisor has gone, find out what became of it."""
        try:
            conversation = await Conversation.open(self.folder, self._heard)
        except OSError:
            self._heard(await asyncio.to_thread(last_status, self.folder))
            return
        self._conversation = conversation
        self._listening = asyncio.create_task(self._listen(conversation), name=f"agent {self.id}")
        while not self.status["state"]:
            await self._news.wait()

    async def detach(self) -> None:
        """Follow it no more; it goes on. Twice does nothing."""
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def pause(self) -> None:
        """Halt it.

        Raises:
            PlaneError: FAILED_PRECONDITION; it has ended, or is ending.
        """
        await self._order("pause")

    async def resume(self) -> None:
        """Let it go on.

        Raises:
            PlaneError: FAILED_PRECONDITION; it has ended, or is ending.
        """
        await self._order("resume")

    async def stop(self, grace_s: float | None = None) -> None:
        """End it, and wait until it has ended. Cancelling leaves it ending.

        Args:
            grace_s: Seconds until it is killed; those of its spec where absent.
        """
        await self._end(partial(self._order, "stop", grace_s=grace_s))

    async def kill(self) -> None:
        """End it at once, and wait until it has ended. Cancelling leaves it ending."""
        await self._end(partial(self._order, "kill"))

    async def write(self, data: bytes, *, last: bool) -> None:
        """Write to its standard input, and wait until its pipe has taken it.

        Args:
            data: What to write; it is written even where this is cancelled.
            last: Whether to close the input then.

        Raises:
            PlaneError: FAILED_PRECONDITION, its input is closed; RESOURCE_EXHAUSTED, too much waits
                already.
        """
        await self._order("write", data, last=last)

    async def read(self, stream: int, offset: int, most: int) -> Piece:
        """Read what it wrote; what there is, without waiting.

        Args:
            stream: 0 for the standard output, 1 for the standard error.
            offset: Where to begin. What lies before is read: an agent that waits to be read may
                write as much anew.
            most: Bytes at most.

        Raises:
            PlaneError: DATA_LOSS; what it wrote is not there any more.
        """
        if self._blocks and self._conversation is not None and not self.over:
            self._conversation.tell("taken", stream=stream, offset=offset)
        try:
            piece = await asyncio.to_thread(read_piece, self.folder / OUTPUTS[stream], offset, most)
        except OSError as error:
            raise PlaneError(
                Code.DATA_LOSS, f"the output of agent {self.id} is gone: {error.strerror}"
            ) from error
        if self.status["state"] == "lost" and not piece.data:
            return Piece(piece.offset, b"", piece.dropped, end=True)
        return piece

    async def follow(self, offsets: dict[int, int]) -> AsyncGenerator[Followed, None]:
        """Follow what it writes, until it has ended and all was read.

        Args:
            offsets: Where to begin, by stream.

        Raises:
            PlaneError: See `read`.
        """
        left = dict(offsets)
        while left:
            news, idle = self._news, True
            for stream in [*left]:
                piece = await self.read(stream, left[stream], FOLLOWED_BYTES)
                if piece.data or piece.dropped or piece.end:
                    idle = False
                    yield Followed(stream, piece)
                left[stream] = piece.next_offset
                if piece.end:
                    del left[stream]
            if idle:
                await news.wait()

    async def until_over(self) -> None:
        """Wait until it has ended."""
        while not self.over:
            await self._news.wait()

    async def _end(self, order: Callable[[], Awaitable[None]]) -> None:
        if not self.over:
            try:
                await order()
            except PlaneError as error:
                if error.code is not Code.FAILED_PRECONDITION:
                    raise
        await self.until_over()

    async def _order(self, do: str, data: bytes = b"", **more: object) -> None:
        try:
            if self.over or self._conversation is None:
                raise PlaneError(Code.FAILED_PRECONDITION, "it has ended")
            await self._conversation.order(do, data, **more)
        except PlaneError as error:
            raise PlaneError(
                error.code, f"agent {self.id} cannot do that: {error.message}"
            ) from None

    async def _listen(self, conversation: Conversation) -> None:
        while True:
            try:
                await conversation.listen()
            finally:
                self._conversation = None
            try:
                self._conversation = conversation = await Conversation.open(
                    self.folder, self._heard
                )
            except OSError:
                break  # It was no slip of the connection: the supervisor has gone.
            await asyncio.sleep(_AGAIN_S)
        self._heard(await asyncio.to_thread(last_status, self.folder))

    def _heard(self, status: StatusRecord) -> None:
        before, self.status = self.status["state"], status
        news, self._news = self._news, asyncio.Event()
        news.set()
        if before not in ("", status["state"]):
            self._told(self)


def _unknown() -> StatusRecord:
    return StatusRecord(
        state="", pid=0, started_ns=0, ended_ns=0, exit_code=None, signal="", cause="",
        stdout=0, stderr=0, written=0,
    )  # fmt: skip


def last_status(folder: Path) -> StatusRecord:
    """How an agent did last, that has no supervisor any more."""
    try:
        status: StatusRecord = json.loads((folder / STATUS).read_text())
    except (OSError, ValueError):
        status = _unknown()
    if status["state"] not in _OVER:
        # The supervisor was killed, and the kernel killed the agent.
        end_remains(folder)
        status["state"], status["pid"] = "lost", 0
        partly = folder / f"{STATUS}.part"
        partly.write_text(json.dumps(status))
        partly.replace(folder / STATUS)
    return status
