"""Whether the gateway of a stack answers yet, and with which models."""

from __future__ import annotations

import asyncio
import http.client
from urllib.parse import urlsplit

from pydantic import BaseModel

_TIMEOUT_S = 2.0
_EVERY_S = 0.05
_KEY_NEEDED = (401, 403)


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


async def models_of(url: str) -> list[str] | None:
    """Ask a gateway for its models until there are some.

    Cancelling it lets a question that is under way come to nothing by itself.

    Args:
        url: Where it is.

    Returns:
        Their names; ``None`` where it tells them only to those who have a key.
    """
    while True:
        answer = await asyncio.to_thread(_ask, url)
        if answer is not None:
            status, names = answer
            if status in _KEY_NEEDED:
                return None
            if names:
                return names
        await asyncio.sleep(_EVERY_S)


def _ask(url: str) -> tuple[int, list[str]] | None:
    """Status and names; ``None`` where nobody answers properly."""
    parts = urlsplit(url)
    # Who listens everywhere is reached here.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname)  # noqa: S104
    connection = http.client.HTTPConnection(host or "127.0.0.1", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        body = response.read(1 << 20)
        if response.status != 200:
            return response.status, []
        return 200, [model.id for model in _Models.model_validate_json(body).data]
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
