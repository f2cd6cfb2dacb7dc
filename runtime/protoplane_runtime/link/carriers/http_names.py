"""What both ends of a link over HTTP call things.

They stand apart from `protoplane_runtime.link.carriers.http`, which brings an HTTP client that no
server needs.
"""

from __future__ import annotations

from typing import Final

PATH: Final = "/link"
"""Where links are opened; the id of one follows it."""

OPENED: Final = "link"
"""Type of the first event."""

CLOSED: Final = "close"
"""Type of the last event of a link that ends in order."""
