"""How a connection is secured."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS, and mutual TLS where a certificate of one's own is given.

    Attributes:
        ca: PEM file of the authorities to trust; the system's where absent.
        cert: PEM file of the client's certificate chain.
        key: PEM file of its private key.
        server_name: Name that the server's certificate must bear, if not the target's (gRPC only).
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for a gRPC channel.

        Raises:
            OSError: A file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.cert),
        )

    def ssl_context(self) -> ssl.SSLContext:
        """A context for HTTPS.

        Raises:
            OSError: A file cannot be read.
            ssl.SSLError: A file does not hold what it should.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


def hang_up_hint(tls: Tls | None, *, secure: bool, scheme: str) -> str:
    """What to say more where a server hangs up on a connection before it has said anything.

    TLS servers often do so without the alert that would say why.

    Args:
        tls: What the connection was made with.
        secure: Whether it speaks TLS.
        scheme: That of a target which does.
    """
    if not secure:
        return f"; if it speaks TLS, the target begins with {scheme}://"
    if tls is None or tls.cert is None:
        return "; it may ask callers for a certificate, and none was given"
    return ""


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
