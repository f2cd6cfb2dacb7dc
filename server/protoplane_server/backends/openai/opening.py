"""Opens ``openai:http://…``; see `OpenaiSettings.parse` for the form of the URL."""

from __future__ import annotations

from protoplane_server.backends.interface import Backend
from protoplane_server.backends.openai.backend import OpenaiBackend
from protoplane_server.backends.openai.settings import OpenaiSettings


def open_backend(url: str) -> Backend:
    """A backend that speaks to an OpenAI-compatible server, not connected yet.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another form.
    """
    return OpenaiBackend(OpenaiSettings.parse(url))
