"""How a connection is secured."""

from __future__ import annotations

from protoplane_runtime.tls import ClientTls as Tls

__all__ = ["Tls", "hang_up_hint"]


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
