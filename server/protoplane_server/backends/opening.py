"""From a URL to a backend."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, cast

from protoplane_base import Code, MissingExtraError, PlaneError

if TYPE_CHECKING:
    # It imports numpy, which whoever has not the extra is to be told of here.
    from protoplane_server.backends.interface import Backend, BackendDriver

VARIABLE = "PROTOPLANE_BACKEND"
"""The environment variable that names the backend."""

DEFAULT_URL = "embedded:"
"""The backend where none is named."""

# Where the `BackendDriver` of a scheme is; imported when it is asked for, as it may need an extra.
_DRIVERS = {
    "embedded": "protoplane_server.backends.embedded.opening",
    "openai": "protoplane_server.backends.openai.opening",
    "triton": "protoplane_server.backends.triton.opening",
    "torch": "protoplane_server.backends.torch.opening",
}
# The extra that brings what a driver imports, by the name of the import.
_EXTRAS = {
    "numpy": "inference",
    "safetensors": "torch",
    "tokenizers": "torch",
    "torch": "torch",
    "xxhash": "torch",
    "threadpoolctl": "inference",
    "tritonclient": "triton",
    "openai": "openai",
    "httpx2": "openai",
}


def open_backend(url: str | None = None) -> Backend:
    """A backend, not started: call its ``start``, and its ``stop`` when done.

    Args:
        url: ``embedded:`` for the toy models that ship with Protoplane, ``triton://host:port`` for
            a Triton Inference Server, ``openai:http://host:port/v1`` for vLLM, llama.cpp and other
            servers of OpenAI's API, ``torch:folder`` for a Llama in this process. Absent, it is
            that of ``$PROTOPLANE_BACKEND``, else ``embedded:``.

    Raises:
        PlaneError: INVALID_ARGUMENT for a URL of another kind.
        MissingExtraError: Its extra is not installed.
    """
    url = url or os.environ.get(VARIABLE) or DEFAULT_URL
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _DRIVERS:
        known = ", ".join(f"{each}:" for each in sorted(_DRIVERS))
        raise PlaneError(Code.INVALID_ARGUMENT, f"{url!r} is no backend; the backends are {known}")
    try:
        driver = cast("BackendDriver", import_module(_DRIVERS[scheme]))
        return driver.open_backend(url)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MissingExtraError(extra, f"the backend {scheme}:") from error
