"""Opens ``embedded:``."""

from __future__ import annotations

from protoplane_base import Code, PlaneError
from protoplane_server.backends.embedded.backend import EmbeddedBackend
from protoplane_server.backends.interface import Backend


def open_backend(url: str) -> Backend:
    """A backend that lives in this process.

    Raises:
        PlaneError: INVALID_ARGUMENT; the URL has more than its scheme.
    """
    _, _, rest = url.partition(":")
    if rest:
        raise PlaneError(
            Code.INVALID_ARGUMENT,
            f"embedded: takes nothing more, not {rest!r}; leave it out, and load another model by "
            "LoadModel with its file as the source",
        )
    return EmbeddedBackend()
