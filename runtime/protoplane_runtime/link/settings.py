"""What an end of a link is and takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from protoplane.v1.link_pb2 import Hello
from protoplane.v1.link_pb2 import LinkLimits as PbLimits
from protoplane_base import Code
from protoplane_runtime.link import compression
from protoplane_runtime.link.errors import LinkError

VERSION = 1
"""The version of the link that is spoken here, alone."""

_DEFAULT_FRAME_BYTES = 256 * 1024
_DEFAULT_CALLS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLimits:
    """What an end takes at most; each end tells the other in its hello.

    Attributes:
        max_message_bytes: Greatest message, put together and decompressed.
        max_frame_bytes: Greatest payload of one frame; greater messages are split.
        call_window_bytes: Bytes that may be under way to this end in one call's stream.
        link_window_bytes: Bytes that may be under way to this end in all streams together.
        max_calls: Calls that the other end may have open at once.
    """

    max_message_bytes: int = 10 * 1024 * 1024
    max_frame_bytes: int = _DEFAULT_FRAME_BYTES
    call_window_bytes: int = 256 * 1024
    link_window_bytes: int = 16 * 1024 * 1024
    max_calls: int = _DEFAULT_CALLS

    def to_pb(self) -> PbLimits:
        """As the hello says it."""
        return PbLimits(
            max_frame_bytes=self.max_frame_bytes,
            max_message_bytes=self.max_message_bytes,
            call_window_bytes=self.call_window_bytes,
            link_window_bytes=self.link_window_bytes,
            max_calls=self.max_calls,
        )

    @classmethod
    def from_pb(cls, pb: PbLimits) -> LinkLimits:
        """What a hello says; what it leaves out has its default."""
        default = cls()
        return cls(
            max_message_bytes=pb.max_message_bytes or default.max_message_bytes,
            max_frame_bytes=pb.max_frame_bytes or default.max_frame_bytes,
            call_window_bytes=pb.call_window_bytes or default.call_window_bytes,
            link_window_bytes=pb.link_window_bytes or default.link_window_bytes,
            max_calls=pb.max_calls or default.max_calls,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who an end is.

    Attributes:
        name: For logs and counters, for example ``forge/captioner/3fa9c1d2``.
        entities: `EntityId` bytes of what it stands for.
        token: Bearer token that proves it; empty for none.
        agent: Program and version.
    """

    name: str = ""
    entities: tuple[bytes, ...] = ()
    token: str = field(default="", repr=False)
    agent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How an end of a link is to behave.

    Attributes:
        identity: Who it is.
        limits: What it takes.
        compress_from_bytes: Messages of at least this size are compressed where the other end can
            undo it; ``None`` for never, which suits carriers that stay on the machine.
        ping_after_s: Seconds of silence after which the other end is asked whether it lives.
        ping_timeout_s: Seconds that its answer may take before the link counts as lost.
        hello_timeout_s: Seconds that a connection and its hello may take.
    """

    identity: Identity = field(default_factory=Identity)
    limits: LinkLimits = field(default_factory=LinkLimits)
    compress_from_bytes: int | None = 32 * 1024
    ping_after_s: float = 15.0
    ping_timeout_s: float = 10.0
    hello_timeout_s: float = 10.0

    def hello(self) -> bytes:
        """The header of the HELLO that says all this."""
        identity = self.identity
        return Hello(
            version_min=VERSION,
            version_max=VERSION,
            limits=self.limits.to_pb(),
            compressions=compression.offered(),
            name=identity.name,
            entities=identity.entities,
            token=identity.token,
            agent=identity.agent,
        ).SerializeToString()


def check_version(hello: Hello) -> None:
    """See that both ends have a version in common.

    Raises:
        LinkError: FAILED_PRECONDITION, with the versions of both.
    """
    if not hello.version_min <= VERSION <= hello.version_max:
        raise LinkError(
            Code.FAILED_PRECONDITION,
            f"the other end speaks versions {hello.version_min} to {hello.version_max} of the "
            f"link and this end speaks {VERSION}; update the older of the two",
        )
