"""How instances are told by liveliness tokens: a token's key is all there is to it.

``<prefix>/at/<namespace>/<name…>/~/<node>/<registration>/<version>/<instance>``: the instance is
compressed JSON in base64, so that a watcher need not ask for it, and it is gone with the token. One
that changes has a new token with the next version before the old one is taken back. A ``claim`` in
place of ``at`` says that somebody is about to take a name.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from protoplane_base import Code, PlaneError
from protoplane_runtime.engines.discovery import Instance

MAX_INSTANCE_CHARS = 32_768
"""Most characters that an instance may take; Zenoh's keys hold less than twice as many."""

# No name holds it, and `**` matches it, unlike what begins with an @.
_MARK = "/~/"
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InstanceToken:
    """What a token says.

    Attributes:
        node: Session of the process.
        registration: Which registration of a name it is.
        version: Which saying of it; the greatest counts.
        instance: The instance.
    """

    node: str
    registration: str
    version: int
    instance: Instance

    def key(self, prefix: str) -> str:
        """The key of the token.

        Raises:
            PlaneError: RESOURCE_EXHAUSTED; the instance says too much.
        """
        packed = urlsafe_b64encode(zlib.compress(self.instance.to_json())).decode()
        if len(packed) > MAX_INSTANCE_CHARS:
            raise PlaneError(
                Code.RESOURCE_EXHAUSTED,
                f"what {self.instance.name} says of itself takes {len(packed)} characters, and "
                f"{MAX_INSTANCE_CHARS} are the most; keep less in its metadata",
            )
        place = f"{self.instance.namespace}/{self.instance.name}"
        return f"{prefix}/at/{place}{_MARK}{self.node}/{self.registration}/{self.version}/{packed}"

    @classmethod
    def parse(cls, key: str) -> InstanceToken | None:
        """Read a token's key; ``None`` where it is that of somebody who speaks otherwise."""
        _, mark, rest = key.partition(_MARK)
        parts = rest.split("/")
        if not mark or len(parts) != 4 or not parts[2].isdigit():
            return None
        try:
            unpacking = zlib.decompressobj()
            json = unpacking.decompress(urlsafe_b64decode(parts[3]), _MAX_JSON_BYTES)
            return cls(parts[0], parts[1], int(parts[2]), Instance.from_json(json))
        except (ValueError, zlib.error, PlaneError):
            return None


def claim_key(prefix: str, instance: Instance, registration: str) -> str:
    """The key of a claim to an instance's name."""
    return f"{prefix}/claim/{instance.namespace}/{instance.name}{_MARK}{registration}"


def claims_of(prefix: str, instance: Instance) -> str:
    """The key expression of all claims to its name."""
    return f"{prefix}/claim/{instance.namespace}/{instance.name}{_MARK}*"


def tokens_of(prefix: str, instance: Instance) -> str:
    """The key expression of all tokens of its name."""
    return f"{prefix}/at/{instance.namespace}/{instance.name}{_MARK}**"
