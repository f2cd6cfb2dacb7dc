"""What a component counts about its calls; `exposition` says how Prometheus reads it.

Counting happens on the event loop only, so it needs no locks and costs well under a microsecond;
the numbers become Prometheus samples when they are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from protoplane_base import Code

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from protoplane_runtime.link.acceptor import Acceptor
    from protoplane_runtime.link.connection import Connection

BUCKETS_S = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip
"""Upper bounds of the latency histogram, in seconds."""


class CallStats:
    """The numbers of one method at one door.

    Attributes:
        in_flight: Calls that are open now.
        codes: How many calls ended with each code, by its number.
        messages_sent: Messages of streams that were answered.
        total_s: Seconds that all calls took together.
        buckets: Calls by how long they took: up to each of `BUCKETS_S`, and longer.
    """

    __slots__ = ("buckets", "codes", "in_flight", "messages_sent", "total_s")

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes = [0] * len(Code)
        self.messages_sent = 0
        self.total_s = 0.0
        self.buckets = [0] * (len(BUCKETS_S) + 1)

    def ended(self, code: Code, took_s: float) -> None:
        """Count a call that is over."""
        self.codes[code] += 1
        self.buckets[bisect_left(BUCKETS_S, took_s)] += 1
        self.total_s += took_s


class ReplyStats:
    """The numbers of the replies that are remembered for repeated calls.

    Attributes:
        remembered: How many are held now.
        repeated: Calls that were answered with the reply to an earlier one.
        forgotten: Replies that were let go, by why: ``count``, ``bytes`` or ``age``.
    """

    __slots__ = ("forgotten", "remembered", "repeated")

    def __init__(self) -> None:
        self.remembered = 0
        self.repeated = 0
        self.forgotten = {"count": 0, "bytes": 0, "age": 0}


class LinkStats:
    """The numbers of the links that came over one carrier.

    What the open ones have moved is asked of them when somebody wants to know, so that moving it
    costs nothing more.

    Attributes:
        opened: How many there were.
        lost: How many of them ended with an error.
    """

    __slots__ = ("_open", "_past", "lost", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.lost = 0
        self._open: set[Connection[Acceptor]] = set()
        self._past = [0, 0, 0, 0]

    @property
    def open(self) -> int:
        """How many are open now."""
        return len(self._open)

    def moved(self) -> tuple[int, int, int, int]:
        """Bytes sent, bytes received, messages sent and messages received, on all of them."""
        sent, received, messages_sent, messages_received = self._past
        for link in self._open:
            sent += link.bytes_sent
            received += link.bytes_received
            messages_sent += link.session.messages_sent
            messages_received += link.session.messages_received
        return sent, received, messages_sent, messages_received

    def began(self, link: Connection[Acceptor]) -> None:
        """Count a link, from now until `ended`."""
        self.opened += 1
        self._open.add(link)

    def ended(self, link: Connection[Acceptor]) -> None:
        """Count the end of a link that is closed."""
        self.lost += link.closed.result() is not None
        self._open.discard(link)
        session = link.session
        moved = (
            link.bytes_sent,
            link.bytes_received,
            session.messages_sent,
            session.messages_received,
        )
        self._past = [past + more for past, more in zip(self._past, moved, strict=True)]


class Metrics:
    """The counts of one component.

    Prometheus' library is imported once somebody asks for what needs it.

    Attributes:
        replies: What is remembered for repeated calls.
    """

    def __init__(self) -> None:
        self.replies = ReplyStats()
        self._stats: dict[tuple[str, str], CallStats] = {}
        self._links: dict[str, LinkStats] = {}

    def stats(self, method: str, door: str) -> CallStats:
        """The numbers of a method (``/package.Service/Method``) at a door."""
        return self._stats.setdefault((method, door), CallStats())

    @property
    def calls(self) -> Mapping[tuple[str, str], CallStats]:
        """The numbers of every method that was called, by method and door."""
        return self._stats

    @property
    def open_links(self) -> int:
        """How many links are open, over all carriers."""
        return sum(stats.open for stats in self._links.values())

    @property
    def carriers(self) -> Mapping[str, LinkStats]:
        """The numbers of the links, by carrier."""
        return self._links

    def links(self, carrier: str) -> LinkStats:
        """The numbers of the links over a carrier, ``tcp`` for example."""
        return self._links.setdefault(carrier, LinkStats())

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Where to register more collectors; `render` writes them all."""
        from protoplane_server.exposition import registry_of

        return registry_of(self)

    @property
    def content_type(self) -> str:
        """Media type of what `render` gives."""
        from protoplane_server.exposition import MEDIA_TYPE

        return MEDIA_TYPE

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        from protoplane_server.exposition import text_of

        return text_of(self.registry)
