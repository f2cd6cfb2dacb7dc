"""Flow control with both ends of a link at once, and bytes that are late and cut anywhere."""

from __future__ import annotations

from hypothesis import HealthCheck
from hypothesis import settings as trying
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from tests.runtime.link.pair import Call, Pair, bring, settings
from tests.runtime.link.wire import hello

from protoplane.v1.link_pb2 import FRAME_TYPE_CREDIT, FRAME_TYPE_MESSAGE, Credit


class Stream:
    """One call of the model: what was sent each way, and what was taken."""

    def __init__(self, near: Call) -> None:
        self.near = near
        self.far: Call | None = None
        self.sent: dict[str, list[bytes]] = {"up": [], "down": []}
        self.taken: dict[str, list[bytes]] = {"up": [], "down": []}
        self.over = False


class FlowMachine(RuleBasedStateMachine):
    """Random streams between two ends whose bytes are late and cut anywhere.

    The wire is watched by a decoder of its own: whatever the ends believe, it must never show more
    under way than the windows and one frame, and what is taken must come back as credit.
    """

    @initialize(
        call_window=st.integers(1, 700),
        link_window=st.integers(1, 2_000),
        max_frame=st.integers(8, 200),
    )
    def begin(self, call_window: int, link_window: int, max_frame: int) -> None:
        self.call_window, self.link_window, self.max_frame = call_window, link_window, max_frame
        given_ = settings(
            call_window_bytes=call_window, link_window_bytes=link_window, max_frame_bytes=max_frame
        )
        # The hello of each is in before the small limits hold.
        self.pair = Pair(given_, given_, ready=False)
        bring(
            self.pair.acceptor,
            hello(
                limits={
                    "call_window_bytes": call_window,
                    "link_window_bytes": link_window,
                    "max_frame_bytes": max_frame,
                }
            ),
        )
        bring(self.pair.caller, self.pair.acceptor.take())
        self.pair.caller.take()
        self.streams: list[Stream] = []

    def drawn(self, data: st.DataObject) -> Stream:
        return self.streams[data.draw(st.integers(0, len(self.streams) - 1))]

    def end(self, stream: Stream, way: str) -> Call | None:
        """Who sends in one direction."""
        return stream.near if way == "up" else stream.far

    @rule()
    def open(self) -> None:
        if len(self.streams) < 6:
            self.streams.append(Stream(self.pair.open()))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), way=st.sampled_from(["up", "down"]), size=st.integers(0, 900))
    def send(self, data: st.DataObject, way: str, size: int) -> None:
        stream = self.drawn(data)
        end = self.end(stream, way)
        if end is not None and not end.ended:
            message = len(stream.sent[way]).to_bytes(2, "big") + bytes(size)
            stream.sent[way].append(message)
            end.send(message)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), way=st.sampled_from(["up", "down"]), most=st.integers(1, 5))
    def take(self, data: st.DataObject, way: str, most: int) -> None:
        stream = self.drawn(data)
        self.taking(stream, way, most)

    def taking(self, stream: Stream, way: str, most: int) -> int:
        end = stream.far if way == "up" else stream.near
        if end is None:
            return 0
        count = 0
        while end.inbox and count < most:
            stream.taken[way].append(end.session.next_message(end))
            count += 1
        return count

    @rule(way=st.sampled_from(["up", "down"]), size=st.integers(1, 500))
    def deliver(self, way: str, size: int) -> None:
        self.pair.collect()
        self.pair.deliver(way, size)
        self.adopt()

    def adopt(self) -> None:
        """Give the calls that came to their streams."""
        for stream, far in zip(self.streams, self.pair.accepting.calls, strict=False):
            stream.far = far

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        stream = self.drawn(data)
        self.pair.caller.cancel(stream.near)
        stream.over = True

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        stream = self.drawn(data)
        if stream.far is not None:
            self.pair.acceptor.close(stream.far)
            self.pair.acceptor.discard(stream.far)
            stream.over = True

    @invariant()
    def messages_are_in_order(self) -> None:
        for stream in getattr(self, "streams", []):
            for way in ("up", "down"):
                taken = stream.taken[way]
                assert taken == stream.sent[way][: len(taken)]

    @invariant()
    def windows_hold(self) -> None:
        if not hasattr(self, "pair"):
            return
        self.pair.collect()
        for way, back in (("up", "down"), ("down", "up")):
            under_way = self.under_way(way, back)
            whole = under_way.pop(0, 0)
            assert 0 <= whole < self.link_window + self.max_frame + 64
            for call, size in under_way.items():
                assert 0 <= size < self.call_window + self.max_frame + 64, call

    def under_way(self, way: str, back: str) -> dict[int, int]:
        """What was sent and not given credit for by call, from the wire; 0 is the link."""
        sizes: dict[int, int] = {0: 0}
        for one in self.pair.frames(way):
            if one.type == FRAME_TYPE_MESSAGE:
                sizes[0] += one.cost
                sizes[one.call] = sizes.get(one.call, 0) + one.cost
        for one in self.pair.frames(back):
            if one.type == FRAME_TYPE_CREDIT:
                sizes[one.call] = sizes.get(one.call, 0) - (
                    Credit.FromString(one.header).more_bytes
                )
        return sizes

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        moved = True
        while moved:
            self.pair.settle()
            self.adopt()
            moved = False
            for stream in self.streams:
                for way in ("up", "down"):
                    if self.taking(stream, way, 1_000):
                        moved = True
        for stream in self.streams:
            if not stream.over:
                assert stream.taken == stream.sent, "a message is stuck"
            self.pair.caller.cancel(stream.near)
        self.pair.settle()
        for far in self.pair.accepting.calls:
            assert far.ended
        for way, back in (("up", "down"), ("down", "up")):
            # Less than half a window may be owed; all else came back.
            assert 0 <= self.under_way(way, back)[0] < max(self.link_window // 2, 1)


TestFlow = FlowMachine.TestCase
TestFlow.settings = trying(
    max_examples=150, stateful_step_count=60, suppress_health_check=[HealthCheck.too_slow]
)
