"""Reading ``text/event-stream``, to the letter of WHATWG HTML § 9.2.

Pure: bytes in, events out. Source:
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_LINE_END = re.compile("\r\n|\r|\n")
_BOM = "\ufeff"


class EventStreamError(ValueError):
    """An event grew past the limit."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event as it was dispatched.

    Attributes:
        type: What ``event:`` said; ``message`` where it said nothing.
        data: All ``data:`` lines, joined by a line feed.
        id: Last event id at that moment; it stays from event to event.
        extra: Fields that the standard ignores, by name; of a repeated one the last.
    """

    type: str
    data: str
    id: str
    extra: Mapping[str, str] = field(default_factory=dict[str, str])


class EventStreamParser:
    """Turns the bytes of one response into events.

    A response needs a parser of its own. What stands after the last empty line is never
    dispatched, as the standard demands.

    Args:
        last_event_id: Id to begin with, for a stream that is resumed.
        max_event_chars: Most characters that one event, or one line, may hold.
    """

    def __init__(self, last_event_id: str = "", *, max_event_chars: int = 32 << 20) -> None:
        self.last_event_id = last_event_id
        """Id to resume after; also set by an ``id:`` in a block without data."""
        self.retry_ms: int | None = None
        """What the server last asked for by ``retry:``."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._after_cr = False
        self._partial: list[str] = []
        self._limit = max_event_chars
        self._size = 0
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []
        self._extra: dict[str, str] = {}

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and give the events that they complete.

        Raises:
            EventStreamError: An event is larger than the limit.
        """
        text = self._decoder.decode(data)
        if not text:
            return []
        if self._at_start:
            self._at_start = False
            text = text.removeprefix(_BOM)
        if self._after_cr:
            text = text.removeprefix("\n")
            self._after_cr = False
            if not text:
                return []
        self._after_cr = text.endswith("\r")
        self._size += len(text)
        first, *rest = _LINE_END.split(text)
        self._partial.append(first)
        events: list[ServerSentEvent] = []
        if rest:
            self._line("".join(self._partial), events)
            for line in rest[:-1]:
                self._line(line, events)
            self._partial = [rest[-1]]
        if self._size > self._limit:
            raise EventStreamError(f"an event is larger than {self._limit} characters")
        return events

    def _line(self, line: str, events: list[ServerSentEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                pass  # A comment.
            case "data":
                self._data.append(value)
            case "event":
                self._type = value
            case "id":
                if "\0" not in value:
                    self._id = value
            case "retry":
                if value.isascii() and value.isdigit():
                    self.retry_ms = int(value[:18])
            case _:
                self._extra[name] = value

    def _dispatch(self, events: list[ServerSentEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            events.append(
                ServerSentEvent(
                    self._type or "message", "\n".join(self._data), self._id, self._extra
                )
            )
        self._type, self._data, self._extra, self._size = "", [], {}, 0
