"""Two sessions with nothing between them but bytes, and calls that remember what they are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.runtime.link.wire import WireFrame, hello, split

from protoplane_base import PlaneError
from protoplane_runtime.link.acceptor import Acceptor
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.caller import Caller
from protoplane_runtime.link.errors import LinkError
from protoplane_runtime.link.frames import MORE
from protoplane_runtime.link.headers import decode_open, encode_open
from protoplane_runtime.link.session import Session
from protoplane_runtime.link.settings import LinkLimits, LinkSettings

OPEN = encode_open("/t.v1.T/M", {})


class Call(LinkCall):
    """A call that writes down what it is told, and sends what it was given once it may.

    Attributes:
        told: What happened, in order.
        answer: The last answer, of a call that closed with one.
        error: Why it failed.
        unsent: Parts that wait for credit, each with its flags.
    """

    def __init__(self, header: bytes = b"", request: bytes | None = None) -> None:
        self.header = header
        self.request = request
        self.told: list[str] = []
        self.answer: bytes | None = None
        self.error: PlaneError | None = None
        self.unsent: deque[tuple[bytes, int]] = deque()
        self.session: Session

    def arrived(self) -> None:
        self.told.append("arrived")

    def credited(self) -> None:
        self.told.append("credited")
        self.pump()

    def half_closed(self) -> None:
        self.told.append("half_closed")

    def cancelled(self) -> None:
        self.told.append("cancelled")

    def closed(self, header: bytes, payload: bytes | None) -> None:
        self.told.append("closed")
        self.header = header
        self.answer = payload

    def failed(self, error: PlaneError) -> None:
        self.told.append("failed")
        self.error = error

    @property
    def over(self) -> bool:
        return bool({"closed", "failed", "cancelled"} & set(self.told))

    def send(self, message: bytes, flags: int = 0) -> None:
        """Queue a message, split as the other end wants it, and send what may be sent."""
        most = self.session.peer_limits.max_frame_bytes
        while len(message) > most:
            self.unsent.append((message[:most], flags | MORE))
            message = message[most:]
        self.unsent.append((message, flags))
        self.pump()

    def pump(self) -> None:
        while self.unsent and not self.ended and self.session.writable(self):
            self.session.send_part(self, *self.unsent.popleft())

    def take(self) -> list[bytes]:
        """All messages that are there."""
        taken: list[bytes] = []
        while self.inbox:
            taken.append(self.session.next_message(self))
        return taken


class Accepting:
    """Takes every call on, as an application would that does nothing yet."""

    def __init__(
        self,
        settings: LinkSettings | None = None,
        refuse: PlaneError | None = None,
        kind: type[Call] = Call,
        **more: Any,
    ) -> None:
        self.kind = kind
        self.calls: list[Call] = []
        self.refuse = refuse
        self.wakes = 0
        self.session = Acceptor(
            settings or LinkSettings(), wake=self._woken, accept=self._accept, **more
        )

    def _woken(self) -> None:
        self.wakes += 1

    def _accept(self, header: bytes, request: bytes | None) -> LinkCall:
        decode_open(header)
        if self.refuse is not None:
            raise self.refuse
        call = self.kind(header, request)
        call.session = self.session
        self.calls.append(call)
        return call


def nothing() -> None:
    """Wake nobody: the tests look for themselves."""


def settings(*, compress_from_bytes: int | None = None, **limits: int) -> LinkSettings:
    """Settings with some limits, and no compression unless it is asked for."""
    return LinkSettings(limits=LinkLimits(**limits), compress_from_bytes=compress_from_bytes)


class Pair:
    """A caller and an acceptor, and the bytes that are under way between them.

    Attributes:
        up: Bytes from the caller that have not been delivered.
        down: Bytes from the acceptor that have not been delivered.
        log: What was ever put on the wire, each way.
    """

    def __init__(
        self,
        near: LinkSettings | None = None,
        far: LinkSettings | None = None,
        *,
        ready: bool = True,
        **caller: Any,
    ) -> None:
        self.caller = Caller(near or settings(), wake=nothing, **caller)
        self.accepting = Accepting(far or settings())
        self.acceptor = self.accepting.session
        self.up, self.down = bytearray(), bytearray()
        self.log: dict[str, bytearray] = {"up": bytearray(), "down": bytearray()}
        if ready:
            self.settle()
            assert self.caller.ready
            assert self.acceptor.ready

    def open(self, request: bytes | None = None, header: bytes = OPEN) -> Call:
        call = Call()
        call.session = self.caller
        self.caller.open(call, header, request)
        return call

    def collect(self) -> None:
        """Put what both ends have to send on the wire."""
        up, down = self.caller.take(), self.acceptor.take()
        self.up += up
        self.down += down
        self.log["up"] += up
        self.log["down"] += down

    def deliver(self, name: str, size: int | None = None) -> None:
        """Bring bytes of one direction, all or so many."""
        wire = self.up if name == "up" else self.down
        data = bytes(wire[:size])
        del wire[: len(data)]
        bring(self.acceptor if name == "up" else self.caller, data)

    def settle(self) -> None:
        """Bring everything, until neither end has anything to say."""
        self.collect()
        while self.up or self.down:
            self.deliver("up")
            self.deliver("down")
            self.collect()

    def frames(self, name: str) -> list[WireFrame]:
        """What went over the wire in one direction."""
        found, rest = split(bytes(self.log[name]))
        assert not rest, "sessions put whole frames on the wire"
        return found


def bring(session: Session, data: bytes) -> None:
    """Give a session bytes, and let it act on all of them."""
    more = session.received(data)
    while more:
        more = session.resume()


def answers(session: Session) -> list[WireFrame]:
    """The frames that an end has to send now."""
    found, rest = split(session.take())
    assert not rest
    return found


def greeted(role: str, given: LinkSettings | None = None) -> tuple[Session, list[Call]]:
    """One end whose hellos are exchanged; a caller has the call 1 open."""
    if role == "acceptor":
        accepting = Accepting(given or settings())
        accepting.session.received(hello())
        accepting.session.take()
        return accepting.session, accepting.calls
    caller = Caller(given or settings(), wake=nothing)
    caller.received(hello())
    call = Call()
    call.session = caller
    caller.open(call, OPEN, None)
    caller.take()
    return caller, [call]


def link_error(do: Callable[[], object]) -> LinkError | None:
    """The error of the link that something raises; any other goes on."""
    try:
        do()
    except LinkError as error:
        return error
    return None
