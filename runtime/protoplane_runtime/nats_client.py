"""The client of NATS that links and the engine share."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from protoplane_base import MissingExtraError

try:
    from nats import errors
    from nats.aio.client import Client
except ModuleNotFoundError as error:
    raise MissingExtraError("nats", "what goes over NATS") from error


class NatsClient(Client):
    """The library's client, but it shuns servers without TLS, and its end has a deadline."""

    def __init__(self, needs_tls: bool) -> None:
        super().__init__()
        self._needs_tls = needs_tls

    def _connect_command(self) -> bytes:
        # Who stands between could take "tls_required" out of what the server says, and read along.
        if self._needs_tls and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()

    async def abandon(self, timeout_s: float) -> None:
        """Close the connection; cut it where that takes longer than ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.close()
        except (TimeoutError, OSError, errors.Error, AssertionError, RuntimeError):
            # The last is uvloop's, where the server went just now.
            writer: Any = getattr(self._transport, "_io_writer", None)
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.transport.abort()
        finally:
            # The library leaves these running where writing fails as it closes.
            subscriptions: list[Any] = list(self._subs.values())
            for subscription in subscriptions:
                subscription._stop_processing()
            self._subs.clear()
