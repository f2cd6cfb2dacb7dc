"""Whom to trust and who one is, for each end of a connection; files in PEM form."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS for the end that connects, and mutual TLS where a certificate of one's own is given.

    Attributes:
        ca: PEM file of the authorities to trust; the system's where absent.
        cert: PEM file of the client's certificate chain.
        key: PEM file of its private key.
        server_name: Name that the server's certificate must bear, if not the target's (gRPC and
            links only).
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
        # Heavy, and not everybody who wants TLS speaks gRPC.
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.cert),
        )

    def ssl_context(self) -> ssl.SSLContext:
        """A context for what uses Python's own TLS.

        Raises:
            OSError: A file cannot be read.
            ssl.SSLError: A file does not hold what it should.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """TLS for the end that listens.

    Attributes:
        certificate: The server's certificate, with the chain above it.
        key: Its private key.
        client_ca: Whose certificates callers must show (mutual TLS); ``None`` asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """A context for what uses Python's own TLS.

        Raises:
            OSError: A file cannot be read, or does not hold what it should.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
