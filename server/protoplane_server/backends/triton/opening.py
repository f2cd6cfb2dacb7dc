"""Opens ``triton://…``; see `TritonSettings.parse` for the form of the URL."""

from __future__ import annotations

from protoplane_server.backends.interface import Backend
from protoplane_server.backends.triton.backend import TritonBackend
from protoplane_server.backends.triton.settings import TritonSettings


def open_backend(url: str) -> Backend:
    """A backend that speaks to a Triton, not connected yet.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another form.
    """
    return TritonBackend(TritonSettings.parse(url))
