"""Opens ``torch:``."""

from __future__ import annotations

from protoplane_server.backends.interface import Backend
from protoplane_server.backends.torch.backend import TorchBackend
from protoplane_server.backends.torch.settings import TorchSettings


def open_backend(url: str) -> Backend:
    """A backend that runs models in this process; see `TorchSettings.parse`.

    Raises:
        PlaneError: INVALID_ARGUMENT with what is wrong in the URL.
    """
    return TorchBackend(TorchSettings.parse(url))
