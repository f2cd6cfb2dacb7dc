"""``google.protobuf.Empty``: a message without fields."""

from __future__ import annotations

from typing import Self

from google.protobuf import empty_pb2

from protoplane_base.message import Message
from protoplane_base.wire import construct, restore


class Empty(Message, pb=empty_pb2.Empty):
    """Nothing; what a method takes or gives that has nothing to say."""

    @classmethod
    def from_pb(cls, pb: empty_pb2.Empty) -> Self:
        """Read a protobuf Empty."""
        return construct(cls, {}, pb)

    def to_pb(self) -> empty_pb2.Empty:
        """Make a protobuf Empty."""
        return restore(self, empty_pb2.Empty())
