"""What a door needs to speak TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files in PEM form.

    Attributes:
        certificate: The server's certificate, with the chain above it.
        key: Its private key.
        client_ca: Whose certificates callers must show (mutual TLS); ``None`` asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """The same for a door that uses Python's own TLS.

        Raises:
            OSError: A file cannot be read, or does not hold what it should.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca is not None:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
