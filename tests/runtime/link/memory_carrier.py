"""A carrier in memory, whose two ends are one wire that can be cut at any byte."""

from __future__ import annotations

import asyncio

from protoplane_base import Code, PlaneError
from protoplane_runtime.link.carriers.interface import Receiver


class Wire:
    """Two carriers, and what goes from one to the other.

    Args:
        cut_after: Bytes, both ways together, after which both ends are lost; ``None`` for never.

    Attributes:
        near: One end.
        far: The other.
        carried: Bytes that were delivered, both ways together.
    """

    def __init__(self, cut_after: int | None = None) -> None:
        self.cut_after = cut_after
        self.carried = 0
        self.near = MemoryCarrier(self)
        self.far = MemoryCarrier(self)
        self.near.other, self.far.other = self.far, self.near
        if cut_after == 0:
            asyncio.get_running_loop().call_soon(self.cut)

    def deliver(self, to: MemoryCarrier, data: bytes) -> None:
        if to.over:
            return
        if self.cut_after is not None:
            data = data[: self.cut_after - self.carried]
        self.carried += len(data)
        if data:
            to.receiver.received(data)
        if self.carried == self.cut_after:
            self.cut()

    def cut(self) -> None:
        for end in (self.near, self.far):
            end.end(PlaneError(Code.UNAVAILABLE, "the wire was cut"))


class MemoryCarrier:
    """One end of a wire; see `protoplane_runtime.link.carriers.interface.Carrier`.

    Attributes:
        receiver: Who is told of what comes; set it before anything does.
        sent: What was given to `send`, one item a call.
        calls: What else was called, in order.
        deaf: Whether this end's bytes go nowhere, as in a network that drops them.
        stuck: Whether closing never ends, because nobody reads what is left.
    """

    peer = "memory"
    identity = ""
    max_batch_bytes = 1 << 20
    burst_frames = 8

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.other: MemoryCarrier
        self.receiver: Receiver
        self.sent: list[bytes] = []
        self.calls: list[str] = []
        self.deaf = False
        self.stuck = False
        self.over = False

    def send(self, data: bytes) -> None:
        if not self.over:
            self.sent.append(data)
            if not self.deaf:
                asyncio.get_running_loop().call_soon(self.wire.deliver, self.other, data)

    def pause_receiving(self) -> None:
        self.calls.append("pause")

    def resume_receiving(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.calls.append("close")
        if self.stuck:
            return
        asyncio.get_running_loop().call_soon(self.end, None)
        asyncio.get_running_loop().call_soon(self.other.end, None)

    def abort(self) -> None:
        self.calls.append("abort")
        lost = PlaneError(Code.UNAVAILABLE, "aborted")
        asyncio.get_running_loop().call_soon(self.end, lost)
        asyncio.get_running_loop().call_soon(self.other.end, lost)

    def end(self, error: PlaneError | None) -> None:
        if not self.over:
            self.over = True
            self.receiver.lost(error)
