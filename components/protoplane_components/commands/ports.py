"""Finding a port that nobody uses."""

from __future__ import annotations

import socket

_TRIES = 20


def free_port(host: str, wanted: int, *, beside: int = 0) -> int:
    """The wanted port, or the first free one of those after it, or any.

    Another program may take it before it is used.

    Args:
        host: Interface.
        wanted: 0 for any.
        beside: A port that is spoken for already.
    """
    for port in (*range(wanted, min(wanted + _TRIES, 65536)), 0) if wanted else (0,):
        if port == beside and port:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError(f"no port is free on {host}")
