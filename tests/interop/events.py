"""What a subscriber saw, and a wire between it and the component that can be cut."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import httpx
from tests.interop.programs import Component

from forge.captioner.v1 import CaptionFinished

FINISHED = "forge.captioner.v1.CaptionFinished"
KEYS = "forge/captions/*"


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as a subscriber saw it.

    Attributes:
        type: What ``event:`` said, or ``open`` for a connection that was made.
        id: What ``id:`` said last.
        json: Its data.
    """

    type: str
    id: str
    json: dict[str, Any]

    @property
    def number(self) -> int:
        """What `publish` was told."""
        words: int = self.json["words"]
        return words

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """From what a client in JavaScript tells."""
        return cls(fields["type"], fields["id"], json.loads(fields["data"]))


class Subscriber:
    """Something that has subscribed.

    Args:
        until: Waits until what was seen is enough, and returns all of it.
    """

    def __init__(self, until: Callable[[Callable[[list[Seen]], bool]], list[Seen]]) -> None:
        self._until = until

    def opened(self, count: int) -> None:
        """Wait until so many connections were made."""
        self._until(lambda seen: sum(event.type == "open" for event in seen) >= count)

    def events(self, count: int) -> list[Seen]:
        """Wait for so many events, and return all that came."""
        seen = self._until(lambda seen: sum(event.type != "open" for event in seen) >= count)
        return [event for event in seen if event.type != "open"]


def publish(component: Component, *numbers: int) -> list[str]:
    """Publish events; returns their ids."""
    ids: list[str] = []
    for number in numbers:
        event = CaptionFinished(request_id=f"n{number}", words=number)
        answer = httpx.post(
            f"{component.url}/events/forge/captions/n{number}",
            content=event.model_dump_json(),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["id"])
    return ids


def events_of(component: Component, keys: str, count: int) -> list[Seen]:
    """Read events from the earliest on, with a plain HTTP client."""
    seen: list[Seen] = []
    fields: dict[str, str] = {}
    with httpx.stream("GET", f"{component.url}/events/{keys}?after=earliest") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "data" in fields:
                seen.append(Seen(fields["event"], fields["id"], json.loads(fields["data"])))
            fields.clear()
            if len(seen) == count:
                break
    return seen


class Relay:
    """Passes what comes to a port on to another, unless it is cut.

    Args:
        host: ``host:port`` to pass it on to.
    """

    def __init__(self, host: str) -> None:
        name, _, port = host.rpartition(":")
        self._to = (name, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = True
        self._ended = False
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break all connections, and close new ones at once."""
        self._open = False

    def mend(self) -> None:
        """Pass everything on again."""
        self._open = True

    def end(self) -> None:
        """Stop for good."""
        self._ended = True
        self._thread.join(5)

    def _run(self) -> None:
        # One thread, and it never waits for one side only: what is passed here is little.
        while not self._ended:
            if not self._open:
                self._drop(self._pairs)
            ways = {a: b for pair in self._pairs for a, b in (pair, pair[::-1])}
            ready, _, _ = select.select([self._listener, *ways], [], [], 0.02)
            for side in ready:
                if side is self._listener:
                    self._accept()
                elif not _pass(side, ways[side]):
                    self._drop({pair for pair in self._pairs if side in pair})
        self._drop(self._pairs)
        self._listener.close()

    def _accept(self) -> None:
        caller, _ = self._listener.accept()
        with suppress(OSError):
            if self._open:
                self._pairs.add((caller, socket.create_connection(self._to)))
                return
        caller.close()

    def _drop(self, pairs: set[tuple[socket.socket, socket.socket]]) -> None:
        for pair in list(pairs):
            self._pairs.discard(pair)
            for side in pair:
                side.close()


def _pass(source: socket.socket, sink: socket.socket) -> bool:
    with suppress(OSError):
        data = source.recv(1 << 16)
        sink.sendall(data)
        return bool(data)
    return False


@contextmanager
def relayed(component: Component) -> Generator[Relay]:
    """A `Relay` before the HTTP door of a component."""
    relay = Relay(component.host)
    try:
        yield relay
    finally:
        relay.end()
