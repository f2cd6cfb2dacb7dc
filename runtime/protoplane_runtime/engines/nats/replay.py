"""What lies before a feed's tail, read for one reader at its own pace."""

from __future__ import annotations

from collections.abc import Sequence

from protoplane_base import PlaneError
from protoplane_runtime.engines.interface import Event
from protoplane_runtime.engines.nats.connection import Connection
from protoplane_runtime.engines.nats.consumer import Consumer
from protoplane_runtime.engines.nats.feed import Feed, decoded
from protoplane_runtime.engines.nats.payload import EPHEMERAL_BITS
from protoplane_runtime.engines.nats.stream import Newest, Stream
from protoplane_runtime.engines.nats.subjects import disjoint, subjects_of


class Replay:
    """Reads from a place on, up to where the tail begins.

    It knows that it is there once the message came with which the tail begins, and reads that one
    too where it does not match: a server that lags behind the others would otherwise seem to have
    nothing more.

    Args:
        connection: The way to the server.
        stream: The stream.
        feed: Whose tail follows.
        place: Place after which to read.
        joined: Whether the reader read from the tail already, with the ids that the feed gave.
    """

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        feed: Feed,
        place: int,
        joined: bool,
    ) -> None:
        self.place = place
        self._connection = connection
        self._stream = stream
        self._feed = feed
        self._epoch = stream.epoch
        self._mark = feed.mark
        self._joined = joined
        self._consumer: Consumer | None = None

    async def next(self) -> Sequence[Event]:
        """The next events, and `place` moves on.

        Raises:
            StreamLost: The stream was lost.
            PlaneError: UNAVAILABLE where the connection is over for good.
        """
        goal = self._feed.tail.start
        events: list[Event] = []
        upto = goal
        last = goal >> EPHEMERAL_BITS
        if not self._mark.subject and last <= self._mark.sequence:
            # Nothing is kept.
            self.place = max(self.place, (last << EPHEMERAL_BITS) - 1)
        elif self.place >> EPHEMERAL_BITS < last:
            if self._consumer is None:
                self._consumer = self._begin(self._mark)
            found = await self._consumer.take(whole=True)
            if not found:
                await self._look_again(last)
            end = found[-1].sequence if found else self.place >> EPHEMERAL_BITS
            found = [stored for stored in found if stored.sequence <= last]
            events = decoded(found, self._epoch, self._stream.durable, self._feed.match)
            if end < last:
                upto = max(self.place, end << EPHEMERAL_BITS)
        if not self._joined:
            own = self._feed.passing.between(
                self.place, min(upto, self._feed.began), self._feed.match
            )
            if own:
                events = sorted([*events, *own], key=lambda event: event.id)
        self.place = max(self.place, upto)
        return events

    def close(self) -> None:
        """Give back what it holds."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _begin(self, mark: Newest) -> Consumer:
        subjects = subjects_of(self._stream.durable, self._feed.match.expressions)
        if mark.subject:
            subjects = disjoint((*subjects, mark.subject))
        start = (self.place >> EPHEMERAL_BITS) + 1
        return Consumer(self._connection, self._stream, subjects, start)

    async def _look_again(self, last: int) -> None:
        # The message that was waited for may have been deleted meanwhile; then wait for another.
        try:
            mark = await self._stream.newest()
        except PlaneError:
            return
        if mark != self._mark:
            self.close()
            self._mark = mark
