"""What the URL of a Triton says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from protoplane_base import Code, PlaneError
from protoplane_runtime.tls import ClientTls

DEFAULT_PORT = 8001
"""Port of Triton's gRPC service."""

TIMEOUT_S = 60.0
"""Longest that a request may take where nobody says less, in seconds."""

SHARED_MIN_BYTES = 1 << 20
"""From which size on tensors go through shared memory."""

SHARED_MAX_BYTES = 256 << 20
"""Most shared memory that is taken."""

_SETTINGS = (
    *("ca", "cert", "cuda_device", "key", "tls", "timeout_s"),
    *("shared_memory_min_bytes", "shared_memory_max_bytes"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonSettings:
    """Where Triton is, and how to speak to it.

    Attributes:
        address: ``host:port`` of its gRPC service.
        tls: How to secure the connection; in the clear where absent.
        timeout_s: Longest that a request may take, in seconds, where its caller sets no earlier
            deadline.
        shared_memory_min_bytes: Tensors from this size on go through shared memory where Triton is
            on this machine; 0 for never.
        shared_memory_max_bytes: Most that is taken for them, in bytes; past it they go over the
            connection.
        cuda_device: Number of the GPU whose memory the large tensors of models on it go through,
            where this process can share it with Triton; ``None`` for none.
    """

    address: str
    tls: ClientTls | None = None
    timeout_s: float = TIMEOUT_S
    shared_memory_min_bytes: int = SHARED_MIN_BYTES
    shared_memory_max_bytes: int = SHARED_MAX_BYTES
    cuda_device: int | None = 0

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read ``triton://host[:port][?setting=value&…]``.

        ``tls=yes`` asks for TLS, and so do the files ``ca``, ``cert`` and ``key``;
        ``cuda_device`` is a number or ``no``; the other settings bear the names of the attributes.

        Raises:
            PlaneError: INVALID_ARGUMENT with what is wrong.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or DEFAULT_PORT
        except ValueError as error:
            raise _wrong(url, str(error)) from None
        if parts.scheme != "triton" or not host or parts.path not in ("", "/") or parts.fragment:
            raise _wrong(
                url, "it looks like triton://127.0.0.1:8001, perhaps with settings after '?'"
            )
        if parts.username or parts.password:
            raise _wrong(url, "Triton knows no users; leave out what stands before '@'")
        asked = dict(parse_qsl(parts.query, keep_blank_values=True))
        ca, cert, key = (asked.pop(name, None) for name in ("ca", "cert", "key"))
        secure = asked.pop("tls", "no")
        if secure not in ("yes", "no"):
            raise _wrong(url, f"'tls' is yes or no, not {secure!r}")
        device = asked.pop("cuda_device", "0")
        if device != "no" and not re.fullmatch(r"\d{1,3}", device):
            raise _wrong(url, f"'cuda_device' is the number of a GPU, or no, not {device!r}")
        settings = cls(
            address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            tls=ClientTls(ca, cert, key) if secure == "yes" or ca or cert else None,
            timeout_s=_number(url, asked, "timeout_s", TIMEOUT_S),
            shared_memory_min_bytes=int(
                _number(url, asked, "shared_memory_min_bytes", SHARED_MIN_BYTES)
            ),
            shared_memory_max_bytes=int(
                _number(url, asked, "shared_memory_max_bytes", SHARED_MAX_BYTES)
            ),
            cuda_device=None if device == "no" else int(device),
        )
        if asked:
            known = ", ".join(sorted(_SETTINGS))
            raise _wrong(url, f"there is no setting {next(iter(asked))!r}; there are {known}")
        if settings.timeout_s == 0:
            raise _wrong(url, "'timeout_s' is more than 0")
        return settings


def _number(url: str, asked: dict[str, str], name: str, default: float) -> float:
    text = asked.pop(name, None)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text):
        raise _wrong(url, f"{name!r} is a number, not {text!r}")
    return float(text)


def _wrong(url: str, why: str) -> PlaneError:
    return PlaneError(Code.INVALID_ARGUMENT, f"{url!r} is no URL of a Triton: {why}")
