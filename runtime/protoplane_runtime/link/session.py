"""The state machine of a link: what each frame means, and which may come when. No sockets, no loop.

A `Session` is fed the bytes that a carrier brought and collects the bytes that it must take away.
It comes in two roles: a `Caller`, the end that connected and opens calls, and an `Acceptor`, the
end that serves them. What happens in a call it tells the call's `LinkCall`, which both the client
and the server derive from. docs/link.md is the specification.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from protoplane.v1.link_pb2 import Credit, GoAway, Hello
from protoplane_base import Code, PlaneError
from protoplane_runtime.link import compression
from protoplane_runtime.link.call import LinkCall
from protoplane_runtime.link.errors import LinkError
from protoplane_runtime.link.frames import (
    COMPRESSED,
    CREDIT,
    END,
    GO_AWAY,
    HELLO,
    MESSAGE,
    MORE,
    PING,
    PONG,
    PREFIX,
    Decoder,
    Frame,
    encode,
)
from protoplane_runtime.link.headers import parse, shortened
from protoplane_runtime.link.settings import LinkLimits, LinkSettings, check_version

MESSAGE_OVERHEAD_BYTES = 64
"""What a frame of a stream costs beside its payload, so that empty messages cost something."""

_MAX_PING_BYTES = 64


class Session:
    """What both roles of a link share: hello, flow control, liveness, the end.

    Args:
        settings: What this end is and takes.
        wake: Called when there is something to send after there was nothing.
        on_ready: Called once the other end's hello is in.
        on_go_away: Called when the other end goes away and finishes the calls it has.

    Attributes:
        peer: What the other end said of itself; empty before it did.
        peer_limits: What the other end takes.
        ready: Whether both hellos were exchanged.
        congested: Whether the carrier takes no more for now; for the carrier to set, and for
            streams to heed.
        whole_bytes: Messages up to this size travel as they are: in one frame, not compressed.
        burst_frames: Frames that are acted on in one turn of the event loop; the carrier's choice.
        messages_sent: Messages of calls that left.
        messages_received: Messages of calls that came.
    """

    def __init__(
        self,
        settings: LinkSettings,
        *,
        wake: Callable[[], None],
        on_ready: Callable[[], None] | None = None,
        on_go_away: Callable[[GoAway], None] | None = None,
    ) -> None:
        self.settings = settings
        self.limits = settings.limits
        self.peer = Hello()
        self.peer_limits = LinkLimits()
        self.ready = False
        self.congested = False
        self.burst_frames = 64
        self.going_away = False
        self.messages_sent: int = 0
        self.messages_received: int = 0
        self.pings = 0
        self.pongs = 0
        self.error: PlaneError | None = None
        self._calls: dict[int, LinkCall] = {}
        self._wake = wake
        self._on_ready = on_ready
        self._on_go_away = on_go_away
        self._when_idle: Callable[[], None] | None = None
        self._out: list[bytes] = []
        self.whole_bytes = 0
        self._compress_from = 1 << 62
        self._credit = 0
        self._allowance = self.limits.link_window_bytes
        self._owed = 0
        self._starved: set[LinkCall] = set()
        self._backlog: deque[Frame] = deque()
        self._decoder = Decoder(self.limits.max_frame_bytes)
        self._on_frame: dict[int, Callable[[int, int, bytes, bytes], None]] = {
            HELLO: self._hello,
            GO_AWAY: self._gone_away,
        }
        self._known = frozenset(range(HELLO, GO_AWAY + 1))

    # What the carrier calls.

    def received(self, data: bytes) -> bool:
        """Take bytes that came: any number of frames, whole or not.

        Only so many frames are acted on at a time; see `resume`.

        Returns:
            Whether frames are left for `resume`.

        Raises:
            LinkError: The other end broke the rules; send what is left, close the carrier, and
                call `lost`.
        """
        frames = self._decoder.feed(data)
        if self._backlog:
            self._backlog.extend(frames)
            return True
        if len(frames) > self.burst_frames:
            self._backlog.extend(frames[self.burst_frames :])
            del frames[self.burst_frames :]
        self._act(frames)
        return bool(self._backlog)

    def resume(self) -> bool:
        """Act on more of the frames that came, in a later turn of the event loop.

        A burst of calls is so answered in several writes, and the other end works on the first
        answers while this end works on the next calls.

        Returns:
            Whether frames are still left.

        Raises:
            LinkError: As `received`.
        """
        backlog = self._backlog
        self._act([backlog.popleft() for _ in range(min(self.burst_frames, len(backlog)))])
        return bool(backlog)

    def _act(self, frames: list[Frame]) -> None:
        on_frame = self._on_frame
        for type_, flags, call, header, payload in frames:
            handle = on_frame.get(type_)
            if handle is not None:
                handle(flags, call, header, payload)
            elif not self.ready and type_ in self._known:
                raise LinkError(
                    Code.INVALID_ARGUMENT, f"a frame of type {type_} came before the hello"
                )
            if on_frame is not self._on_frame:
                on_frame = self._on_frame

    @property
    def backlog(self) -> int:
        """How many frames wait for `resume`."""
        return len(self._backlog)

    def pending(self) -> bool:
        """Whether there is something to send."""
        return bool(self._out)

    def take(self) -> bytes:
        """All frames that are ready, as bytes; they are the carrier's now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def uncongested(self) -> None:
        """The carrier takes more again."""
        self.congested = False
        self._feed_starved()

    def lost(self, error: PlaneError) -> None:
        """The link is over: every call fails."""
        if self.error is None:
            self.error = error
        calls = list(self._calls.values())
        self._calls.clear()
        self._out.clear()
        for call in calls:
            call.ended = True
            call.failed(self._error_of(call, error))

    # What calls use.

    @property
    def open_calls(self) -> int:
        """How many calls are open."""
        return len(self._calls)

    def when_idle(self, then: Callable[[], None]) -> None:
        """Do something once no call is open; at once if none is."""
        self._when_idle = then
        if not self._calls:
            then()

    def writable(self, call: LinkCall) -> bool:
        """Whether a stream may send now; if not, its call's `credited` says when."""
        if call.credit > 0 and self._credit > 0 and not self.congested:
            return True
        self._starved.add(call)
        return False

    def check_size(self, size: int, what: str) -> None:
        """See that the other end takes a message of a size.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED where it does not.
        """
        if size > self.peer_limits.max_message_bytes:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"the {what} has {size} bytes and max_message_bytes of the other end is "
                f"{self.peer_limits.max_message_bytes}; send less at once or raise its limit",
            )

    def packed(self, message: bytes) -> tuple[bytes, int]:
        """A message as it is to travel, with the flag that says so: compressed where that pays."""
        if len(message) >= self._compress_from:
            small = compression.compress(message)
            if len(small) < len(message):
                return small, COMPRESSED
        return message, 0

    def send_part(self, call: LinkCall, part: bytes, flags: int) -> None:
        """One MESSAGE frame; the caller asked `writable` first."""
        cost = len(part) + MESSAGE_OVERHEAD_BYTES
        call.credit -= cost
        self._credit -= cost
        self._push(PREFIX.pack(MESSAGE, flags, 0, len(part), call.id))
        self._out.append(part)
        if not flags & MORE:
            self.messages_sent += 1

    def next_message(self, call: LinkCall) -> bytes:
        """Take the first message out of a call's inbox, and let the other end send more.

        Raises:
            IndexError: There is none.
        """
        inbox = call.inbox
        if inbox is None:
            raise IndexError("no message came yet")
        message, cost, _ = inbox.popleft()
        if not inbox:
            # What of the next message is there already waits for its rest, so it must not keep
            # that rest from coming.
            cost = call.held
        call.held -= cost
        self._consumed(call, cost)
        if inbox and inbox[0][2]:
            self._unpack_first(call, inbox)
        return message

    def ping(self) -> None:
        """Ask the other end whether it lives; `pongs` reaches `pings` when it answered."""
        self.pings += 1
        self._push(encode(PING, 0, 0, b"", self.pings.to_bytes(8, "big")))

    def go_away(self, code: int = 0, message: str = "", endpoints: tuple[str, ...] = ()) -> None:
        """Announce the end: no new calls, and with a code other than 0 the end of all."""
        # The message may be what the other end said, so it is cut to what a header takes.
        header = GoAway(
            code=code,
            message=shortened(message),
            last_call=self._last_accepted(),
            endpoints=endpoints,
        )
        self._push(encode(GO_AWAY, 0, 0, header.SerializeToString()))

    # Hello and link-wide frames.

    def _say_hello(self) -> None:
        self._push(encode(HELLO, 0, 0, self.settings.hello()))

    def _hello(self, _flags: int, _call: int, header: bytes, _payload: bytes) -> None:
        hello = parse(Hello, header)
        check_version(hello)
        self._check_peer(hello)
        self.peer = hello
        self.peer_limits = limits = LinkLimits.from_pb(hello.limits)
        self._credit = limits.link_window_bytes
        least = self.settings.compress_from_bytes
        if least is not None and compression.usable(hello.compressions):
            self._compress_from = least
        self.whole_bytes = min(
            limits.max_frame_bytes, limits.max_message_bytes, self._compress_from - 1
        )
        self.ready = True
        self._on_frame = self._frames()
        if self._on_ready is not None:
            self._on_ready()

    def _check_peer(self, hello: Hello) -> None:
        """Refuse an end that is not welcome by raising `LinkError`."""

    def _frames(self) -> dict[int, Callable[[int, int, bytes, bytes], None]]:
        return {
            HELLO: self._second_hello,
            MESSAGE: self._message,
            CREDIT: self._credit_came,
            PING: self._pinged,
            PONG: self._ponged,
            GO_AWAY: self._gone_away,
        }

    def _second_hello(self, _flags: int, _call: int, _header: bytes, _payload: bytes) -> None:
        raise LinkError(Code.INVALID_ARGUMENT, "a second hello came")

    def _pinged(self, _flags: int, _call: int, _header: bytes, payload: bytes) -> None:
        if len(payload) > _MAX_PING_BYTES:
            raise LinkError(
                Code.INVALID_ARGUMENT,
                f"a ping of {len(payload)} bytes came; the most is {_MAX_PING_BYTES}",
            )
        # What waits in the carrier shows as well that this end lives, and an end that only asks
        # and never reads must not fill the memory.
        if not self.congested:
            self._push(encode(PONG, 0, 0, b"", payload))

    def _ponged(self, _flags: int, _call: int, _header: bytes, payload: bytes) -> None:
        self.pongs = max(self.pongs, min(int.from_bytes(payload[:8], "big"), self.pings))

    def _gone_away(self, _flags: int, _call: int, header: bytes, _payload: bytes) -> None:
        gone = parse(GoAway, header)
        if gone.code != 0:
            try:
                code = Code(gone.code)
            except ValueError:
                code = Code.UNKNOWN
            raise LinkError(code, f"the other end ended the link: {gone.message}")
        self.going_away = True
        self._going(gone)
        if self._on_go_away is not None:
            self._on_go_away(gone)

    def _going(self, gone: GoAway) -> None:
        """The other end drains."""

    def _last_accepted(self) -> int:
        return 0

    def _error_of(self, _call: LinkCall, error: PlaneError) -> PlaneError:
        if isinstance(error, LinkError):
            # Its code speaks of the link: what broke was not the call's, nor its caller's, fault.
            return PlaneError(Code.UNAVAILABLE, f"the link broke: {error.message}")
        return error

    # Messages and flow control.

    def _message(self, flags: int, id_: int, _header: bytes, payload: bytes) -> None:
        cost = len(payload) + MESSAGE_OVERHEAD_BYTES
        if self._allowance <= 0:
            raise LinkError(Code.INVALID_ARGUMENT, "more came than the link's window allows")
        self._allowance -= cost
        call = self._calls.get(id_)
        if call is None:
            self._check_known(id_)
            self._owe(cost)
            return
        if call.allowance <= 0:
            raise LinkError(
                Code.INVALID_ARGUMENT, f"more came in call {id_} than its window allows"
            )
        call.allowance -= cost
        call.held += cost
        if flags & MORE or call.parts:
            self._part(call, flags, payload, cost)
        else:
            self._deliver(call, flags, payload, cost)

    def _part(self, call: LinkCall, flags: int, payload: bytes, cost: int) -> None:
        if call.parts is None:
            # One buffer: a list of parts of two bytes would take twenty times what came.
            call.parts = bytearray()
        call.parts += payload
        if len(call.parts) > self.limits.max_message_bytes:
            self._refuse(call, self._too_large(len(call.parts)))
        elif not flags & MORE:
            message = bytes(call.parts)
            call.parts = None
            self._deliver(call, flags, message, cost)
        elif not call.inbox:
            call.held -= cost
            self._consumed(call, cost)

    def _deliver(self, call: LinkCall, flags: int, payload: bytes, cost: int) -> None:
        if call.inbox is None:
            call.inbox = deque()
        # Those that wait stay compressed, or a window of them could take a thousand windows.
        packed = bool(flags & COMPRESSED and call.inbox)
        if not packed:
            try:
                payload = self._message_of(flags, payload)
            except PlaneError as error:
                self._refuse(call, error)
                return
        self.messages_received += 1
        call.inbox.append((payload, cost, packed))
        call.arrived()
        if flags & END:
            self._half_close(call)

    def _unpack_first(self, call: LinkCall, inbox: deque[tuple[bytes, int, bool]]) -> None:
        payload, cost, _ = inbox[0]
        try:
            inbox[0] = (self._message_of(COMPRESSED, payload), cost, False)
        except PlaneError as error:
            self._refuse(call, error)

    def _half_close(self, call: LinkCall) -> None:
        """The last message of the caller came; one of an acceptor ends nothing, its CLOSE does."""

    def _message_of(self, flags: int, payload: bytes) -> bytes:
        """The message that a payload is.

        Raises:
            PlaneError: It is too large, or cannot be decompressed.
        """
        most = self.limits.max_message_bytes
        if flags & COMPRESSED:
            return compression.decompress(payload, most)
        if len(payload) > most:
            raise self._too_large(len(payload))
        return payload

    def _too_large(self, size: int) -> PlaneError:
        return PlaneError(
            Code.RESOURCE_EXHAUSTED,
            f"a message of {size} bytes or more came and max_message_bytes is "
            f"{self.limits.max_message_bytes}; send less at once or raise the limit",
        )

    def _refuse(self, call: LinkCall, error: PlaneError) -> None:
        """End a call because of what came in it."""
        raise NotImplementedError

    def _check_known(self, id_: int) -> None:
        """See that a call whose frame came was open once.

        Raises:
            LinkError: It never was.
        """
        raise NotImplementedError

    def _credit_came(self, _flags: int, id_: int, header: bytes, _payload: bytes) -> None:
        more = parse(Credit, header).more_bytes
        if id_ == 0:
            self._credit += more
            self._feed_starved()
            return
        call = self._calls.get(id_)
        if call is None:
            self._check_known(id_)
            return
        call.credit += more
        if call in self._starved and self._credit > 0 and not self.congested:
            self._starved.discard(call)
            call.credited()

    def _feed_starved(self) -> None:
        if self._credit <= 0 or self.congested:
            return
        for call in tuple(self._starved):
            if call.credit > 0 or call.ended:
                self._starved.discard(call)
                call.credited()

    def _consumed(self, call: LinkCall, cost: int) -> None:
        self._owe(cost)
        call.owed += cost
        if call.owed >= self.limits.call_window_bytes // 2 and not call.ended:
            call.allowance += call.owed
            self._grant(call.id, call.owed)
            call.owed = 0

    def _owe(self, cost: int) -> None:
        self._owed += cost
        if self._owed >= self.limits.link_window_bytes // 2:
            self._allowance += self._owed
            self._grant(0, self._owed)
            self._owed = 0

    def _grant(self, id_: int, more_bytes: int) -> None:
        self._push(encode(CREDIT, 0, id_, Credit(more_bytes=more_bytes).SerializeToString()))

    def _track(self, call: LinkCall, id_: int) -> None:
        call.id = id_
        call.credit = self.peer_limits.call_window_bytes
        call.allowance = self.limits.call_window_bytes
        self._calls[id_] = call

    def discard(self, call: LinkCall) -> None:
        """Drop the unread messages of a call that is over, so that they fill the window no more."""
        call.inbox = None
        call.parts = None
        if call.held:
            held, call.held = call.held, 0
            self._owe(held)

    def _ended(self, call: LinkCall) -> None:
        call.ended = True
        if call in self._starved:
            self._starved.discard(call)
            call.credited()
        if self._when_idle is not None and not self._calls:
            self._when_idle()

    def _push(self, frame: bytes) -> None:
        if not self._out:
            self._wake()
        self._out.append(frame)
