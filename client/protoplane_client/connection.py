"""What a connection has come to and counted, for channels that let a library connect for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import time

from protoplane_client.route import ConnectionState, ConnectionStats


class Connection:
    """The state, the counters and the open calls of one connection.

    Attributes:
        state: Where it stands, as far as was seen.
        stats: What it has counted. Bytes are those of messages: the library tells nothing of what
            goes around them.
        outstanding: Calls that are open on it.
    """

    __slots__ = ("_was_connected", "outstanding", "state", "stats")

    def __init__(self) -> None:
        self.state = ConnectionState.DISCONNECTED
        self.stats = ConnectionStats()
        self.outstanding = 0
        self._was_connected = False

    def move(self, state: ConnectionState) -> None:
        """Note the state that was seen."""
        if state is ConnectionState.CONNECTING and self._was_connected:
            state = ConnectionState.RECONNECTING
        if state is self.state:
            return
        self.state = state
        self.stats.since_s = time()
        if state is ConnectionState.RECONNECTING:
            self.stats.errors += 1
        elif state is ConnectionState.CONNECTED:
            self.stats.reconnects += self._was_connected
            self._was_connected = True

    def sent(self, message: bytes) -> bytes:
        """Count a message that leaves."""
        self.stats.messages_sent += 1
        self.stats.bytes_sent += len(message)
        return message

    def received(self, message: bytes) -> bytes:
        """Count a message that came."""
        self.stats.messages_received += 1
        self.stats.bytes_received += len(message)
        return message

    async def all_sent(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Count the messages of a stream as they leave."""
        async for message in messages:
            yield self.sent(message)
