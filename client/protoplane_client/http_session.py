"""HTTP for channels and event streams: one pool of connections, its errors made ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Generator
from contextlib import contextmanager

import httpx

from protoplane_base import Code, PlaneError
from protoplane_client.tls import Tls, hang_up_hint
from protoplane_runtime.link.errors import UnsentError

_CONNECT_S = 10.0


class HttpSession:
    """A pool of connections to one base URL; opens them as needed.

    Args:
        base_url: ``http://…`` or ``https://…``.
        tls: Whom to trust and who one is, for ``https``.

    Raises:
        OSError: A file of ``tls`` cannot be read.
    """

    def __init__(self, base_url: str, *, tls: Tls | None = None, token: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        verify: ssl.SSLContext | bool = True if tls is None else tls.ssl_context()
        self.client = httpx.AsyncClient(
            base_url=self.base_url,
            verify=verify,
            headers={"authorization": f"Bearer {token}"} if token else None,
            # Deadlines are those of the call. Streams are many and long, so nothing caps them.
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            event_hooks={"response": [self._answered]},
        )
        self._closed = False
        secure = self.base_url.startswith("https:")
        self._hint = hang_up_hint(tls, secure=secure, scheme="https")

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def require_open(self) -> None:
        """Refuse use after `aclose`.

        Raises:
            PlaneError: FAILED_PRECONDITION.
        """
        if self._closed:
            raise PlaneError(Code.FAILED_PRECONDITION, f"the plane to {self.base_url} is closed")

    @contextmanager
    def errors(self) -> Generator[None]:
        """Turn what httpx raises into `PlaneError`."""
        try:
            yield
        except httpx.LocalProtocolError as error:
            raise PlaneError(Code.INVALID_ARGUMENT, f"HTTP cannot carry this: {error}") from error
        except httpx.ConnectTimeout as error:
            raise UnsentError(f"cannot reach {self.base_url} within {_CONNECT_S:g} s") from error
        except httpx.ConnectError as error:
            raise UnsentError(
                f"cannot reach {self.base_url}: {str(error) or 'no connection'}"
            ) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise PlaneError(
                Code.UNAVAILABLE,
                f"the connection to {self.base_url} broke: {_words(error)}{self._hint}",
            ) from error
        except RuntimeError as error:
            # httpx says so when the client was closed under a call.
            if self._closed:
                raise PlaneError(
                    Code.CANCELLED, f"the plane to {self.base_url} was closed"
                ) from error
            raise

    async def aclose(self) -> None:
        """Close all connections; closing twice does nothing."""
        if not self._closed:
            self._closed = True
            await self.client.aclose()

    async def _answered(self, _: httpx.Response) -> None:
        self._hint = ""  # Whatever breaks later, it was not how the connection was secured.


def _words(error: BaseException) -> str:
    """What an error says, or else what the one behind it says."""
    words = ""
    behind: BaseException | None = error
    while behind is not None and not words:
        words = (isinstance(behind, OSError) and behind.strerror) or str(behind)
        behind = behind.__cause__ or behind.__context__
    return words.rstrip(".") or type(error).__name__


@contextmanager
def deadline(at: float | None, timeout_s: float | None) -> Generator[None]:
    """Say DEADLINE_EXCEEDED where a wait inside ended because the call's time was over.

    Args:
        at: Loop time of the deadline; ``None`` where there is none.
        timeout_s: What the caller asked for, for the message.
    """
    try:
        yield
    except TimeoutError as error:
        if at is None or asyncio.get_running_loop().time() < at:
            raise
        raise PlaneError(
            Code.DEADLINE_EXCEEDED, f"the call took longer than its {timeout_s:g} s"
        ) from error
