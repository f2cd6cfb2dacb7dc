"""What a door needs to speak TLS."""

from __future__ import annotations

from protoplane_runtime.tls import ServerTls as Tls

__all__ = ["Tls"]
