"""What a host and the supervisor of an agent say to each other."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protoplane_base import Code, PlaneError
from protoplane_components.agents.supervisor import SOCKET, StatusRecord


class Conversation:
    """A connection to a supervisor.

    Args:
        reader: What it says.
        writer: What it is told.
        heard: Is given each status that it tells, with those that it answers orders with.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        heard: Callable[[StatusRecord], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._heard = heard
        self._number = 0
        self._replies: dict[int, asyncio.Future[str]] = {}
        self._over = False

    @classmethod
    async def open(cls, folder: Path, heard: Callable[[StatusRecord], None]) -> Conversation:
        """Begin one.

        Args:
            folder: The agent's.
            heard: As above.

        Raises:
            OSError: There is no supervisor any more.
        """
        reader, writer = await asyncio.open_unix_connection(sock=_connected(folder))
        return cls(reader, writer, heard)

    async def listen(self) -> None:
        """Hear the supervisor until it goes; then orders that wait for an answer fail."""
        try:
            while line := await self._reader.readline():
                told: dict[str, Any] = json.loads(line)
                self._heard(told["status"])
                reply = self._replies.pop(told.get("reply", -1), None)
                if reply is not None and not reply.done():
                    reply.set_result(told["error"])
        except OSError:
            pass  # A supervisor that died says no more than one that ended.
        finally:
            self._over = True
            for reply in self._replies.values():
                if not reply.done():
                    reply.set_result("FAILED_PRECONDITION it has ended")
            self._replies.clear()
            self._writer.close()

    async def order(self, do: str, data: bytes = b"", **more: object) -> None:
        """Give an order, and wait until it is carried out. Cancelling does not take it back.

        Args:
            do: What to do.
            data: Bytes that go with it.
            **more: What else the order says.

        Raises:
            PlaneError: It cannot be carried out.
        """
        if self._over:
            raise PlaneError(Code.FAILED_PRECONDITION, "it has ended")
        self._number += 1
        number = self._number
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self.tell(do, data, number=number, size=len(data), **more)
            error = await reply
        finally:
            self._replies.pop(number, None)
        if error:
            code, _, message = error.partition(" ")
            raise PlaneError(Code[code], message)

    def tell(self, do: str, data: bytes = b"", **more: object) -> None:
        """Say something that has no answer."""
        if not self._over:
            self._writer.write(json.dumps({"do": do, **more}).encode() + b"\n" + data)


def _connected(folder: Path) -> socket.socket:
    # The path of a unix socket is 107 bytes at most; the way by the open folder is always short.
    opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connecting = socket.socket(socket.AF_UNIX)
    try:
        connecting.connect(f"/proc/self/fd/{opened}/{SOCKET}")
        connecting.setblocking(False)
    except BaseException:
        connecting.close()
        raise
    finally:
        os.close(opened)
    return connecting
