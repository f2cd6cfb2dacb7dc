"""Engines that a queue of jobs runs on, each with real parts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.nats_server import NatsServers


@contextmanager
def engine_url(kind: str, folder: Path) -> Generator[str]:
    """An engine's URL, good until the block ends.

    Args:
        kind: ``memory:``, ``local:``, ``zenoh:`` or ``nats:``.
        folder: An empty folder for what it keeps.
    """
    match kind:
        case "nats:":
            with NatsServers(folder) as servers:
                yield servers.start().url
        case "local:":
            yield f"local:{folder}"
        case "zenoh:":
            yield f"zenoh:?listen=tcp/127.0.0.1:0&folder={folder}"
        case _:
            yield kind
