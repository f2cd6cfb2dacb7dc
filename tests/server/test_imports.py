"""A server imports what its doors need, for what it imports it holds in memory."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import asyncio, sys
from protoplane_components.captioner import Captioner
from protoplane_server import Options, Server

async def main():
    async with Server(Captioner(), Options(grpc=None, http="127.0.0.1:0")) as server:
        assert server.http_url
        print(*sys.modules)

asyncio.run(main())
"""
HEAVY = {"grpc", "httpx", "prometheus_client", "rich", "sqlite3", "numpy", "nats", "zenoh"}


def test_a_server_of_http_alone_holds_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    imported = set(done.stdout.split())
    assert "uvicorn" in imported
    assert not imported & HEAVY
